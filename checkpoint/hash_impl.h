/* XXH3 in the widest form that the processor has, where the library chooses when it runs: twice as
   fast as the one for any processor, and the same numbers. */
#ifndef SY_CHECKPOINT_HASH_IMPL_H
#define SY_CHECKPOINT_HASH_IMPL_H

#include <xxhash.h>
#ifdef SY_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#endif
