/* SentencePiece's C++ interface as a few C calls: no exception leaves this file. */
#include "data/sentencepiece_impl.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

struct sy__spm {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" sy__spm *sy__spm_open(const char *bytes, size_t n, char *why, size_t why_bytes)
{
    sy__spm *spm = nullptr;
    try {
        spm = new sy__spm;
        const auto status = spm->processor.LoadFromSerializedProto(absl::string_view(bytes, n));
        if (status.ok()) {
            return spm;
        }
        (void)std::snprintf(why, why_bytes, "%s", status.ToString().c_str());
    } catch (const std::exception &e) {
        (void)std::snprintf(why, why_bytes, "%s", e.what());
    }
    delete spm;
    return nullptr;
}

extern "C" void sy__spm_close(sy__spm *spm)
{
    delete spm;
}

extern "C" int32_t sy__spm_n_ids(const sy__spm *spm)
{
    return spm->processor.GetPieceSize();
}

extern "C" int32_t sy__spm_eos(const sy__spm *spm)
{
    return spm->processor.eos_id();
}

extern "C" int64_t sy__spm_longest(const sy__spm *spm)
{
    size_t longest = 1;
    for (int i = 0; i < spm->processor.GetPieceSize(); i++) {
        longest = std::max(longest, spm->processor.IdToPiece(i).size());
    }
    return (int64_t)longest;
}

extern "C" int64_t sy__spm_encode(const sy__spm *spm, const char *text, size_t n, int32_t *ids,
                                  int64_t max)
{
    try {
        std::vector<int> all;
        if (!spm->processor.Encode(absl::string_view(text, n), &all).ok()) {
            return -1;
        }
        std::copy_n(all.begin(), std::min((int64_t)all.size(), max), ids);
        return (int64_t)all.size();
    } catch (const std::exception &) {
        return -1;
    }
}

extern "C" int64_t sy__spm_decode(const sy__spm *spm, int32_t id, char *text, int64_t max)
{
    static const char space[] = "\xe2\x96\x81"; /* how pieces write a space */
    const auto &p = spm->processor;
    try {
        std::string piece = p.IdToPiece(id);
        if (p.IsControl(id) || p.IsUnused(id)) {
            return 0;
        }
        if (p.IsByte(id)) { /* "<0x41>" */
            piece = std::string(1, (char)std::stoi(piece.substr(1, piece.size() - 2), nullptr, 16));
        }
        for (size_t at = 0; (at = piece.find(space, at)) != std::string::npos; at++) {
            piece.replace(at, sizeof space - 1, " ");
        }
        const size_t n = std::min(piece.size(), (size_t)max);
        std::memcpy(text, piece.data(), n);
        return (int64_t)n;
    } catch (const std::exception &) {
        return 0;
    }
}
