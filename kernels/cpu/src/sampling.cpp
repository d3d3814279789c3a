#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "pool.h"
#include "sampling_row.h"

namespace russet {

namespace {

void check_rows(const char* name, size_t size, int rows) {
    if (size != static_cast<size_t>(rows)) {
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " rows, the logits have " +
                                    std::to_string(rows));
    }
}

void check_spans(const std::string& name, std::span<const int32_t> starts, std::span<const int32_t> ids, size_t values,
                 int rows, int vocab) {
    bool rising = starts.size() == static_cast<size_t>(rows) + 1 && starts.front() == 0 &&
                  static_cast<size_t>(starts.back()) == ids.size() && std::is_sorted(starts.begin(), starts.end());
    if (!rising) {
        throw std::invalid_argument(name + "_starts must rise from 0 to " + std::to_string(ids.size()) + " in " +
                                    std::to_string(rows + 1) + " entries");
    }
    if (values != ids.size()) {
        throw std::invalid_argument(name + " has " + std::to_string(ids.size()) + " ids but " + std::to_string(values) +
                                    " values");
    }
    for (int32_t id : ids) {
        if (id < 0 || id >= vocab) {
            throw std::invalid_argument(name + "_ids has " + std::to_string(id) + "; ids must lie in [0, " +
                                        std::to_string(vocab) + ")");
        }
    }
}

void check_masks(const SampleParameters& p, int rows, int vocab) {
    const size_t masked = p.masked_rows.size(), words = (static_cast<size_t>(vocab) + 31) / 32;
    if (masked > 0 && (p.masks.size() != masked * words || p.mask_words != static_cast<int>(words))) {
        throw std::invalid_argument("masks must be [" + std::to_string(masked) + ", " + std::to_string(words) +
                                    "], a row for each of masked_rows; got [" +
                                    std::to_string(p.mask_words == 0 ? 0 : p.masks.size() / p.mask_words) + ", " +
                                    std::to_string(p.mask_words) + "]");
    }
    for (size_t i = 0; i < masked; ++i) {
        if (p.masked_rows[i] < (i == 0 ? 0 : p.masked_rows[i - 1] + 1) || p.masked_rows[i] >= rows) {
            throw std::invalid_argument("masked_rows must rise within [0, " + std::to_string(rows) + "), got " +
                                        std::to_string(p.masked_rows[i]) + " at " + std::to_string(i));
        }
    }
}

void check_logprobs(const WantedLogprobs& wanted, int rows, int vocab) {
    const size_t count = wanted.rows.size(), answers = count * static_cast<size_t>(wanted.width);
    if (wanted.tops.size() != count || wanted.given.size() != count || wanted.chosen.size() != count ||
        wanted.top_ids.size() != answers || wanted.top_values.size() != answers) {
        throw std::invalid_argument("logprobs has " + std::to_string(count) +
                                    " rows; its other arrays must have as many");
    }
    const int most = std::min(wanted.width, vocab);
    for (size_t i = 0; i < count; ++i) {
        if (wanted.rows[i] < (i == 0 ? 0 : wanted.rows[i - 1] + 1) || wanted.rows[i] >= rows) {
            throw std::invalid_argument("logprobs.rows must rise within [0, " + std::to_string(rows) + "), got " +
                                        std::to_string(wanted.rows[i]) + " at " + std::to_string(i));
        }
        if (wanted.given[i] < -1 || wanted.given[i] >= vocab) {
            throw std::invalid_argument("logprobs.given must lie in [-1, " + std::to_string(vocab) + "), got " +
                                        std::to_string(wanted.given[i]) + " at " + std::to_string(i));
        }
        if (wanted.tops[i] < 0 || wanted.tops[i] > most) {
            throw std::invalid_argument("logprobs.tops must lie in [0, " + std::to_string(most) + "], got " +
                                        std::to_string(wanted.tops[i]) + " at " + std::to_string(i));
        }
    }
}

template <typename T, typename Accepts>
void check_range(const char* name, std::span<const T> values, const char* accepted, Accepts accepts) {
    for (size_t row = 0; row < values.size(); ++row) {
        if (accepts(values[row])) continue;
        throw std::invalid_argument(std::string(name) + " must lie in " + accepted + ", got " +
                                    std::to_string(values[row]) + " in row " + std::to_string(row));
    }
}

void check(const SampleParameters& p, int rows, int vocab) {
    check_rows("temperature", p.temperature.size(), rows);
    check_rows("top_k", p.top_k.size(), rows);
    check_rows("top_p", p.top_p.size(), rows);
    check_rows("min_p", p.min_p.size(), rows);
    check_rows("repetition", p.repetition.size(), rows);
    check_rows("presence", p.presence.size(), rows);
    check_rows("frequency", p.frequency.size(), rows);
    check_rows("seed", p.seed.size(), rows);
    check_rows("position", p.position.size(), rows);
    check_range("temperature", p.temperature, "[0, inf)", [](float x) { return x >= 0.0f && std::isfinite(x); });
    check_range("top_k", p.top_k, "[0, inf)", [](int32_t x) { return x >= 0; });
    check_range("top_p", p.top_p, "(0, 1]", [](float x) { return x > 0.0f && x <= 1.0f; });
    check_range("min_p", p.min_p, "[0, 1]", [](float x) { return x >= 0.0f && x <= 1.0f; });
    check_spans("seen", p.seen_starts, p.seen_ids, p.seen_output_counts.size(), rows, vocab);
    check_spans("bias", p.bias_starts, p.bias_ids, p.bias_values.size(), rows, vocab);
    check_masks(p, rows, vocab);
    check_logprobs(p.logprobs, rows, vocab);
}

// Why the row has no token.
std::string reason(int vocab, const uint32_t* mask, float peak) {
    bool allows = mask == nullptr;
    for (int id = 0; id < vocab && !allows; ++id) allows = (mask[id / 32] >> (id % 32) & 1) != 0;
    if (!allows) return "its mask allows none of the " + std::to_string(vocab) + " ids";
    return "the largest of its logits is " + std::to_string(peak);
}

}  // namespace

uint32_t uniform(uint64_t seed, int32_t position) {
    uint32_t x[4] = {static_cast<uint32_t>(position), 0, 0, 0};
    uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * x[0], b = uint64_t{0xCD9E8D57} * x[2];
        const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key[0], static_cast<uint32_t>(b),
                                  static_cast<uint32_t>(a >> 32) ^ x[3] ^ key[1], static_cast<uint32_t>(a)};
        std::copy_n(next, 4, x);
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return x[0] >> 8;
}

void sample(Pool& pool, const float* logits, int rows, int vocab, const SampleParameters& parameters, int32_t* out) {
    check(parameters, rows, vocab);
    if (rows == 0) return;
    std::vector<const uint32_t*> masks(rows, nullptr);
    for (size_t i = 0; i < parameters.masked_rows.size(); ++i) {
        masks[parameters.masked_rows[i]] = parameters.masks.data() + i * parameters.mask_words;
    }
    const WantedLogprobs& wanted = parameters.logprobs;
    std::vector<int> asks(rows, -1);
    for (size_t i = 0; i < wanted.rows.size(); ++i) asks[wanted.rows[i]] = static_cast<int>(i);
    std::vector<float> peak(rows);
    pool.run(rows, [&](int row) {
        static thread_local SampleScratch scratch;
        const float* x = logits + static_cast<size_t>(row) * vocab;
        RowSampler sampler(x, vocab, parameters, row, masks[row], scratch);
        out[row] = sampler.draw();
        peak[row] = sampler.peak();
        if (out[row] < 0 || asks[row] < 0) return;
        const size_t i = asks[row], at = i * wanted.width;
        RowSampler(x, vocab, parameters, row, nullptr, scratch)
            .tell(wanted.given[i] >= 0 ? wanted.given[i] : out[row], wanted.tops[i], wanted.chosen.data() + i, wanted.top_ids.data() + at,
                  wanted.top_values.data() + at);
    });
    for (int row = 0; row < rows; ++row) {
        if (out[row] < 0) {
            throw std::invalid_argument("row " + std::to_string(row) + " has no token to draw: " +
                                        reason(vocab, masks[row], peak[row]));
        }
    }
}

}  // namespace russet
