/* The tokenizer files that travel along in a checkpoint, on their way from one to another. */
#ifndef SY_CHECKPOINT_TOKENIZER_FILES_H
#define SY_CHECKPOINT_TOKENIZER_FILES_H

#include "parallel/state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_tokenizer_files {
    int32_t n;
    char **name;
    void **bytes;  /* of rank 0, which writes them; NULL on the others */
    sy_blob *blob; /* [n] views, for a sy_state */
} sy_tokenizer_files;

/* All of a checkpoint file, read by rank 0. Collective over world. */
sy_status sy_tokenizer_files_read(const char *path, sy_comm *world, sy_tokenizer_files *out);
void sy_tokenizer_files_free(sy_tokenizer_files *files);

#ifdef __cplusplus
}
#endif
#endif
