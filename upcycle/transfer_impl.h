/* What import and export share. */
#ifndef SY_UPCYCLE_TRANSFER_IMPL_H
#define SY_UPCYCLE_TRANSFER_IMPL_H

#include "upcycle/transfer.h"

#ifdef __cplusplus
extern "C" {
#endif

int64_t sy__hf_numel(const sy_hf_tensor *tensor);
/* Where the links of each of our tensors begin, and behind the last where the fills do:
   first [n_our + 1]. Freed with sy_free. Not collective. */
sy_status sy__hf_first_links(const sy_hf_map *map, int32_t **first);
/* The link of our tensor (its links are link[0 .. n)) that holds element `at`. Not collective. */
const sy_hf_link *sy__hf_link_at(const sy_hf_link *link, int32_t n, int64_t at);

/* All tensors end to end make one range of bytes, which the ranks share out in whole pieces. What
   of a tensor that begins at byte `base` of it is this rank's: bytes [*begin, *end) of the tensor.
   Not collective. */
void sy__share(const sy_comm *comm, int64_t total, int64_t base, int64_t bytes, int64_t piece,
               int64_t *begin, int64_t *end);

/* n values, times scale (a power of two), from one float type to another; src need not be aligned.
   Counts into the receipt what the type rounds. `name` is for the message when a value is too large
   for it: SY_ERR_USAGE. Not collective. */
sy_status sy__convert_counted(const char *name, sy_dtype dst_type, void *dst, sy_dtype src_type,
                              const void *src, int64_t n, double scale,
                              sy_transfer_receipt *receipt);

#ifdef __cplusplus
}
#endif
#endif
