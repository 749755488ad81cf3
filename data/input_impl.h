/* Text files, plain or compressed, as a stream of bytes. Nothing here is collective. */
#ifndef SY_DATA_INPUT_IMPL_H
#define SY_DATA_INPUT_IMPL_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__input sy__input;

/* Open path; the end of its name says how it is packed: .gz, .zst, else not at all. SY_ERR_USAGE
   where it cannot be read. */
sy_status sy__input_open(const char *path, sy__input **out);
void sy__input_close(sy__input **input);
/* Up to n more bytes; *got < n only at the end. SY_ERR_USAGE: packed data that is damaged or ends
   early. */
sy_status sy__input_read(sy__input *input, char *bytes, int64_t n, int64_t *got);
/* Go n bytes of text further. SY_ERR_USAGE: it has fewer. */
sy_status sy__input_skip(sy__input *input, int64_t n);
/* Bytes of the file itself that are behind us. */
int64_t sy__input_position(const sy__input *input);
/* Does the name, without .gz or .zst, end with .jsonl? */
bool sy__input_is_jsonl(const char *path);

#ifdef __cplusplus
}
#endif
#endif
