/* Balanced linear assignment: n tokens to E experts, the same number to each, with the largest
   possible sum of scores. */
#ifndef SY_MOE_ASSIGNMENT_H
#define SY_MOE_ASSIGNMENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of `work` for n tokens; it is aligned for doubles. Not collective. */
int64_t sy_assignment_bytes(int64_t n, int32_t E);
/* expert [n] from score [n, E]: every expert gets n / E tokens, n mod E of them one more, and the
   sum of the tokens' scores is the largest that such a sharing out can have. Where several have it,
   the same one each time. Scores that are not finite are set to the smallest finite one.
   Exact: tokens come in one after another, each by a shortest augmenting path among experts
   (Dijkstra with potentials): time O(n E (E + n)) at most, near n E^2 where few tokens give way.
   Not collective. Ahuja, Magnanti & Orlin 1993, 9.7; the problem: Lewis et al. 2021
   (arXiv 2103.16716) 3.1. */
void sy_assignment_solve(double *score, int64_t n, int32_t E, void *work, int32_t *expert);

#ifdef __cplusplus
}
#endif
#endif
