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
/* Those of a Hugging Face folder that are there, read by rank 0: the tokenizer's, config.json and
   generation_config.json. Collective over world. */
sy_status sy_tokenizer_files_from_folder(const char *folder, sy_comm *world,
                                         sy_tokenizer_files *out);
/* Bytes of one of them, [*n]; NULL where it is not there, or not on this rank. Not collective. */
const void *sy_tokenizer_files_find(const sy_tokenizer_files *files, const char *name, int64_t *n);
void sy_tokenizer_files_free(sy_tokenizer_files *files);

#ifdef __cplusplus
}
#endif
#endif
