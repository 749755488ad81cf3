/* At phase edges all ranks agree on the worst status, so that no rank goes on into a collective
 * that another will not reach. */
#ifndef SY_PARALLEL_AGREE_H
#define SY_PARALLEL_AGREE_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Collective over host. Returns the worst of all ranks' `mine`; where it is an error, this thread's
   trace becomes that of the lowest rank that has it (with its rank), on every rank. */
sy_status sy_agree(sy_comm *host, sy_status mine);
/* Collective over host. SY_ERR_USAGE naming `what`, min and max over the ranks where value is not
 * the same on all. */
sy_status sy_agree_same(sy_comm *host, int64_t value, const char *what);
/* Give every rank the text of rank 0 (NULL is kept). Collective over host; freed with sy_free. */
sy_status sy_host_broadcast_text(sy_comm *host, char **text);

#ifdef __cplusplus
}
#endif
#endif
