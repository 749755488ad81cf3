/* Questions as sequences to score. Nothing here is collective. */
#ifndef SY_LAUNCH_CHOICES_READ_H
#define SY_LAUNCH_CHOICES_READ_H

#include "data/tokenizer.h"
#include "train/choices.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One choice of a question. */
typedef struct sy_choice {
    int64_t question, bytes;
    bool right;
} sy_choice;

typedef struct sy_quiz {
    /* set by the caller */
    const char *path; /* for messages */
    const sy_tokenizer *tokenizer;
    int32_t vocab_size, S; /* of the model */
    /* filled */
    int64_t n, room, n_questions;
    sy_choice *choice; /* [n] question by question */
    sy_scored *scored; /* [n] whose ids are owned; S + 1 at most */
} sy_quiz;

/* Read the lines of a text. On failure too the caller frees it. Errors: SY_ERR_USAGE names path
   and line; there are no questions. */
sy_status sy_quiz_parse(sy_quiz *quiz, const char *text);
void sy_quiz_free(sy_quiz *quiz);

#ifdef __cplusplus
}
#endif
#endif
