// Python's view of the decoder.
#include <nanobind/nanobind.h>

namespace russet {

void bind_decoder(nanobind::module_&) {}

}  // namespace russet
