// The extension module kernels.cpu._ext.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace russet {
void bind_linear(nb::module_& m);
void bind_decoder(nb::module_& m);
void bind_encoder(nb::module_& m);
}  // namespace russet

NB_MODULE(_ext, m) {
    m.doc() = "CPU kernels of Russet. Import mlx.core first.";
    russet::bind_linear(m);
    russet::bind_decoder(m);
    russet::bind_encoder(m);
}
