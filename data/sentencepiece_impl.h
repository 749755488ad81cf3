/* SentencePiece's C++ interface as a few C calls. Nothing here is collective. */
#ifndef SY_DATA_SENTENCEPIECE_IMPL_H
#define SY_DATA_SENTENCEPIECE_IMPL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__spm sy__spm;

/* A model of bytes [n]. NULL: it cannot be read, and why [why_bytes] says why not. */
sy__spm *sy__spm_open(const char *bytes, size_t n, char *why, size_t why_bytes);
void sy__spm_close(sy__spm *spm);
int32_t sy__spm_n_ids(const sy__spm *spm);
/* -1: the model has none. */
int32_t sy__spm_eos(const sy__spm *spm);
/* ids [max] of text [n]; how many there are, which may be more than max; -1: it fails. */
int64_t sy__spm_encode(const sy__spm *spm, const char *text, size_t n, int32_t *ids, int64_t max);
/* The text of one id, its bytes: what pieces write for a space is a space, control ids give
   nothing. Requires 0 <= id < n_ids. */
int64_t sy__spm_decode(const sy__spm *spm, int32_t id, char *text, int64_t max);
/* The bytes of the longest piece. */
int64_t sy__spm_longest(const sy__spm *spm);

#ifdef __cplusplus
}
#endif
#endif
