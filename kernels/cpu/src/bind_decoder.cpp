// Python's view of the decoder and the sampler. Calls that compute release the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <unistd.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <system_error>

#include "decoder.h"
#include "pool.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace russet {

void bind_mixture(nb::module_& m);
void bind_operations(nb::module_& m);
void bind_slab(nb::module_& m);

namespace {

template <typename T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

template <typename T>
std::span<const T> span(const Column<T>& array) {
    return {array.data(), array.shape(0)};
}

// Buffers that logits are handed out in. One that Python has let go of serves the next forward: its memory is warm, and
// the system need not map and zero some megabytes per step.
class LogitsBuffers {
  public:
    std::vector<float>* take(size_t size) {
        std::unique_ptr<std::vector<float>> buffer;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!free_.empty()) {
                buffer = std::move(free_.back());
                free_.pop_back();
            }
        }
        if (!buffer) buffer = std::make_unique<std::vector<float>>();
        if (buffer->size() < size) buffer->resize(size);
        return buffer.release();
    }

    void give_back(std::vector<float>* buffer) noexcept {
        std::unique_ptr<std::vector<float>> owned(buffer);
        std::lock_guard<std::mutex> lock(mutex_);
        if (free_.size() < kKept) free_.push_back(std::move(owned));
    }

  private:
    static constexpr size_t kKept = 2;
    std::mutex mutex_;
    std::vector<std::unique_ptr<std::vector<float>>> free_;
};

LogitsBuffers& buffers() {
    static LogitsBuffers* all = new LogitsBuffers;  // outlives the interpreter's last array
    return *all;
}

// A field of a named tuple as a column; TypeError where it is none.
template <typename Array>
Array field(const nb::tuple& fields, size_t index, const char* name) {
    Array array;
    if (index >= fields.size() || !nb::try_cast<Array>(fields[index], array, false)) {
        throw nb::type_error((std::string(name) + " must be a contiguous array of the type that its tuple says").c_str());
    }
    return array;
}

template <typename T, int kDims>
using Written = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;

// The columns of a kernels.decoder.Batch, held while they are used.
struct BatchColumns {
    BatchColumns(const nb::tuple& fields, const Decoder& decoder)
            : tokens(field<Column<int32_t>>(fields, 0, "tokens")),
              row_starts(field<Column<int32_t>>(fields, 1, "row_starts")),
              lengths(field<Column<int32_t>>(fields, 2, "lengths")),
              page_table(field<Table<int32_t>>(fields, 3, "page_table")),
              logits_at(field<Column<int32_t>>(fields, 4, "logits_at")) {
        if (!fields[5].is_none()) parents = field<Column<int32_t>>(fields, 5, "parents");
        if (fields[6].is_none()) return;
        const nb::tuple tap = nb::cast<nb::tuple>(fields[6]);
        hidden_at = field<Column<int32_t>>(tap, 0, "hidden.at");
        hidden = field<Written<float, 2>>(tap, 1, "hidden.states");
        const size_t count = hidden_at->shape(0), width = decoder.shape().hidden;
        if (hidden->shape(0) == count && hidden->shape(1) == width) return;
        throw std::invalid_argument("hidden.states is [" + std::to_string(hidden->shape(0)) + ", " +
                                    std::to_string(hidden->shape(1)) + "]; it must be [" + std::to_string(count) +
                                    ", " + std::to_string(width) + "]");
    }

    DecoderBatch batch() const {
        return {span(tokens),
                {span(row_starts),
                 span(lengths),
                 {page_table.data(), page_table.shape(0) * page_table.shape(1)},
                 static_cast<int>(page_table.shape(1)),
                 parents ? span(*parents) : std::span<const int32_t>()},
                span(logits_at),
                hidden_at ? span(*hidden_at) : std::span<const int32_t>(),
                hidden ? hidden->data() : nullptr};
    }

    Column<int32_t> tokens, row_starts, lengths;
    Table<int32_t> page_table;
    Column<int32_t> logits_at;
    std::optional<Column<int32_t>> parents, hidden_at;
    std::optional<Written<float, 2>> hidden;
};

Output forward(Decoder& decoder, KvSlab& slab, const nb::tuple& batch_fields) {
    const BatchColumns columns(batch_fields, decoder);
    const size_t rows = columns.logits_at.shape(0), vocab = decoder.shape().vocab;
    std::vector<float>* buffer = nullptr;
    {
        nb::gil_scoped_release released;
        const DecoderBatch batch = columns.batch();
        // Checked before rows * vocab floats are taken.
        decoder.validate(batch, slab);
        buffer = buffers().take(rows * vocab);
        try {
            decoder.forward(batch, slab, buffer->data());
        } catch (...) {
            buffers().give_back(buffer);
            throw;
        }
    }
    nb::capsule owner(buffer, [](void* p) noexcept { buffers().give_back(static_cast<std::vector<float>*>(p)); });
    return Output(buffer->data(), {rows, vocab}, owner);
}

// A kernels.logprobs.Logprobs, held while it is written to.
struct LogprobColumns {
    explicit LogprobColumns(const nb::tuple& fields)
            : rows(field<Column<int32_t>>(fields, 0, "logprobs.rows")),
              tops(field<Column<int32_t>>(fields, 1, "logprobs.tops")),
              chosen(field<Written<float, 1>>(fields, 2, "logprobs.chosen")),
              top_ids(field<Written<int32_t, 2>>(fields, 3, "logprobs.top_ids")),
              top_values(field<Written<float, 2>>(fields, 4, "logprobs.top_values")),
              given(field<Column<int32_t>>(fields, 5, "logprobs.given")) {}

    WantedLogprobs wanted() const {
        return {span(rows),
                span(tops),
                {chosen.data(), chosen.shape(0)},
                {top_ids.data(), top_ids.shape(0) * top_ids.shape(1)},
                {top_values.data(), top_values.shape(0) * top_values.shape(1)},
                static_cast<int>(top_ids.shape(1)),
                span(given)};
    }

    Column<int32_t> rows, tops;
    Written<float, 1> chosen;
    Written<int32_t, 2> top_ids;
    Written<float, 2> top_values;
    Column<int32_t> given;
};

// The columns of a kernels.sampling.SampleBatch, held while they are used.
struct SampleColumns {
    explicit SampleColumns(const nb::tuple& fields)
            : temperature(field<Column<float>>(fields, 0, "temperature")),
              top_k(field<Column<int32_t>>(fields, 1, "top_k")),
              top_p(field<Column<float>>(fields, 2, "top_p")),
              min_p(field<Column<float>>(fields, 3, "min_p")),
              repetition(field<Column<float>>(fields, 4, "repetition")),
              presence(field<Column<float>>(fields, 5, "presence")),
              frequency(field<Column<float>>(fields, 6, "frequency")),
              seed(field<Column<uint64_t>>(fields, 7, "seed")),
              position(field<Column<int32_t>>(fields, 8, "position")),
              seen_starts(field<Column<int32_t>>(fields, 9, "seen_starts")),
              seen_ids(field<Column<int32_t>>(fields, 10, "seen_ids")),
              seen_output_counts(field<Column<int32_t>>(fields, 11, "seen_output_counts")),
              bias_starts(field<Column<int32_t>>(fields, 12, "bias_starts")),
              bias_ids(field<Column<int32_t>>(fields, 13, "bias_ids")),
              bias_values(field<Column<float>>(fields, 14, "bias_values")),
              masked_rows(field<Column<int32_t>>(fields, 15, "masked_rows")),
              masks(field<Table<uint32_t>>(fields, 16, "masks")) {
        if (fields.size() > 17 && !fields[17].is_none()) logprobs.emplace(nb::cast<nb::tuple>(fields[17]));
    }

    SampleParameters parameters() const {
        return {span(temperature), span(top_k),       span(top_p),    span(min_p),
                span(repetition),  span(presence),    span(frequency), span(seed),
                span(position),    span(seen_starts), span(seen_ids), span(seen_output_counts),
                span(bias_starts), span(bias_ids),    span(bias_values),
                span(masked_rows), {masks.data(), masks.shape(0) * masks.shape(1)},
                static_cast<int>(masks.shape(1)),
                logprobs ? logprobs->wanted() : WantedLogprobs{}};
    }

    Column<float> temperature;
    Column<int32_t> top_k;
    Column<float> top_p, min_p, repetition, presence, frequency;
    Column<uint64_t> seed;
    Column<int32_t> position, seen_starts, seen_ids, seen_output_counts, bias_starts, bias_ids;
    Column<float> bias_values;
    Column<int32_t> masked_rows;
    Table<uint32_t> masks;
    std::optional<LogprobColumns> logprobs;
};

void sample_into(const Table<float>& logits, const nb::tuple& sampling_fields,
                 nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) {
    const SampleColumns sampling(sampling_fields);
    if (out.shape(0) != logits.shape(0)) throw std::invalid_argument("out must have one entry per row of logits");
    nb::gil_scoped_release released;
    sample(pool(), logits.data(), static_cast<int>(logits.shape(0)), static_cast<int>(logits.shape(1)),
           sampling.parameters(), out.data());
}

// Wakes whoever waits for `bell` (see actors/worker/bell.py). A bell that is full has been rung already.
void ring(int bell) {
    if (bell < 0) return;
    const uint64_t once = 1;
    if (write(bell, &once, sizeof once) < 0 && errno != EAGAIN) throw std::system_error(errno, std::generic_category());
}

// Masks that another thread fills while the forward runs (kernels.bell.Errand). Whatever happens, this one waits for it.
class Errand {
  public:
    Errand(int begin, int done) : done_(done) { ring(begin); }
    Errand(const Errand&) = delete;
    Errand& operator=(const Errand&) = delete;
    ~Errand() { wait(); }

    void wait() noexcept {
        uint64_t once;
        while (done_ >= 0 && read(done_, &once, sizeof once) < 0 && errno == EINTR) {
        }
        done_ = -1;
    }

  private:
    int done_;
};

void draw(Decoder& decoder, KvSlab& slab, const nb::tuple& batch_fields, const nb::tuple& sampling_fields,
          nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out, int bell, int begin,
          int done) {
    const BatchColumns columns(batch_fields, decoder);
    const SampleColumns sampling(sampling_fields);
    const size_t rows = columns.logits_at.shape(0), vocab = decoder.shape().vocab;
    if (out.shape(0) != rows) throw std::invalid_argument("out must have one entry for each of logits_at");
    nb::gil_scoped_release released;
    // Not earlier: who wakes takes the GIL, and would keep this thread waiting for it.
    ring(bell);
    Errand masks(begin, done);
    const DecoderBatch batch = columns.batch();
    decoder.validate(batch, slab);
    const auto give_back = [](std::vector<float>* buffer) { buffers().give_back(buffer); };
    const std::unique_ptr<std::vector<float>, decltype(give_back)> logits(buffers().take(rows * vocab), give_back);
    decoder.forward(batch, slab, logits->data());
    if (rows == 0) return;
    masks.wait();
    sample(pool(), logits->data(), static_cast<int>(rows), static_cast<int>(vocab), sampling.parameters(), out.data());
}

}  // namespace

void bind_decoder(nb::module_& m) {
    bind_operations(m);
    bind_slab(m);
    bind_mixture(m);
    nb::class_<LayerPack>(m, "LayerPack", "One block's packed weights.")
        .def(
            "__init__",
            [](LayerPack* self, std::vector<float> attention_norm, Matrix q, Matrix k, Matrix v, Matrix o,
               std::vector<float> mlp_norm, Matrix gate, Matrix up, Matrix down, std::vector<float> q_bias,
               std::vector<float> k_bias, std::vector<float> v_bias, std::vector<float> q_norm,
               std::vector<float> k_norm, std::shared_ptr<MixturePack> mixture) {
                new (self) LayerPack{std::move(attention_norm),
                                     std::move(mlp_norm),
                                     q,
                                     k,
                                     v,
                                     o,
                                     gate,
                                     up,
                                     down,
                                     std::move(q_bias),
                                     std::move(k_bias),
                                     std::move(v_bias),
                                     std::move(q_norm),
                                     std::move(k_norm),
                                     std::move(mixture)};
            },
            "attention_norm"_a, "q"_a, "k"_a, "v"_a, "o"_a, "mlp_norm"_a, "gate"_a.none(), "up"_a.none(),
            "down"_a.none(), "q_bias"_a, "k_bias"_a, "v_bias"_a, "q_norm"_a, "k_norm"_a, "mixture"_a.none());

    nb::class_<Decoder>(m, "Decoder", "A whole decoder over packed weights.")
        .def(
            "__init__",
            [](Decoder* self, int hidden, int heads, int kv_heads, int head_dim, int intermediate, int vocab,
               int context_length, float norm_eps, std::vector<double> frequencies, bool interleaved, bool gelu,
               const MixtureShape& mixture, Matrix embedding, const std::vector<LayerPack*>& layers, std::vector<float> final_norm, Matrix head,
               int max_step_tokens, bool fine) {
                std::vector<LayerPack> packs;
                for (const LayerPack* layer : layers) packs.push_back(*layer);
                DecoderShape shape{static_cast<int>(packs.size()), hidden,         heads,    kv_heads,
                                   head_dim,                       intermediate,   vocab,    context_length,
                                   norm_eps,                       std::move(frequencies), interleaved, gelu, mixture};
                new (self) Decoder(std::move(shape), embedding, std::move(packs), std::move(final_norm), head,
                                   max_step_tokens, fine ? Rounding::Fine : Rounding::Mixed);
            },
            nb::kw_only(), "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "intermediate"_a, "vocab"_a,
            "context_length"_a, "norm_eps"_a, "frequencies"_a, "interleaved"_a, "gelu"_a, "mixture"_a, "embedding"_a,
            "layers"_a, "final_norm"_a, "head"_a, "max_step_tokens"_a, "fine"_a)
        .def_prop_ro("weight_bytes", &Decoder::weight_bytes, "Bytes of the packed matrices.")
        .def(
            "allocate_kv",
            [](const Decoder& d, int pages, int page_size, const std::array<int, 3>& blocks) {
                SlabShape shape = d.slab_shape(pages, page_size, blocks);
                const size_t bytes = KvSlab::bytes_for(shape);
                try {
                    return new KvSlab(shape);
                } catch (const std::bad_alloc&) {
                    const std::string message = std::to_string(pages) + " KV pages of " + std::to_string(page_size) +
                                                " tokens want " + std::to_string(bytes) +
                                                " bytes, which the system does not give";
                    PyErr_SetString(PyExc_MemoryError, message.c_str());
                    throw nb::python_error();
                }
            },
            "pages"_a, "page_size"_a, "blocks"_a,
            "An empty slab for this decoder, with so many packed blocks of 8, 4 and 2 bits; MemoryError with the bytes "
            "wanted.")
        .def("forward", &forward, "slab"_a, "batch"_a,
             "Run a kernels.decoder.Batch; float32 logits [L, vocab]. ValueError naming what is wrong, before anything "
             "is written.")
        .def("draw", &draw, "slab"_a, "batch"_a, "sampling"_a, "out"_a.noconvert(), "bell"_a,
             "begin"_a, "done"_a,
             "Run a kernels.decoder.Batch and draw one id for each of its logits_at into out, by a "
             "kernels.sampling.SampleBatch. `bell`: a file descriptor rung once the GIL is free; `begin`, `done`: a "
             "kernels.bell.Errand; -1 is none.");

    m.def("sample", &sample_into, "logits"_a.noconvert(), "sampling"_a, "out"_a.noconvert(),
          "Draw one id per row of logits [R, vocab] into out int32 [R], by a kernels.sampling.SampleBatch.");
}

}  // namespace russet
