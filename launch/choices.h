/* Multiple-choice questions: JSONL with a context, choices and the number of the right one. */
#ifndef SY_LAUNCH_CHOICES_H
#define SY_LAUNCH_CHOICES_H

#include "data/tokenizer.h"
#include "train/choices.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The same on every rank. Shares of the questions whose right choice has the largest sum of log
   probabilities, and the largest sum per byte of the choice's text; of equal ones the first counts.
 */
typedef struct sy_choices_result {
    int64_t questions;
    double accuracy, accuracy_per_byte;
    double nll; /* of the right choice, in nats, mean of the questions */
} sy_choices_result;

/* Ask the engine's model the questions of a file, of which each line is an object with `context`
   (text), `choices` (two texts at least) and `answer` (number of the right one, from 0). Rank 0
   reads the file. SY_ERR_USAGE names file and line. Collective over the engine's world. */
sy_status sy_choices_ask(sy_engine *engine, const sy_tokenizer *tokenizer, const char *path,
                         sy_choices_result *out);

#ifdef __cplusplus
}
#endif
#endif
