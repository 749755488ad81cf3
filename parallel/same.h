/* What must be the same on all ranks and is not sent to them: the program, files, the environment.
   Where all is well, one small all-reduce; only a difference is looked at closely. */
#ifndef SY_PARALLEL_SAME_H
#define SY_PARALLEL_SAME_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_SAME_WORDS = 256 };

typedef struct sy_same {
    char what[SY_SAME_WORDS]; /* "the program"; the same on all ranks */
    const char *mend;         /* "install one build on all hosts" */
    uint64_t digest;          /* of what it is here */
    char here[SY_SAME_WORDS]; /* what it is here, in words */
} sy_same;

/* SY_ERR_USAGE for the first item whose digest is not the same on all ranks: which ranks have
   another one than most (of equally many, than the one with the lowest rank), what they have and
   what the others have. n and the order of items are the same on all ranks. Collective over host.
 */
sy_status sy_same_check(sy_comm *host, const sy_same *item, int32_t n);

#ifdef __cplusplus
}
#endif
#endif
