/* Experts are the nodes of a graph. An edge from e to f is the token of e that would lose least by
   going to f; a token that arrives in a full expert sends one on along an edge, until one finds
   room. */
#include "moe/assignment.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

enum { NOBODY = -1, A_PLACE = -2 }; /* movers that are no tokens */

typedef struct state {
    const double *score;    /* [n, E] */
    int64_t low, high_left; /* tokens per expert, and how many more experts may have one more */
    int32_t E;
    double *cost;   /* [E, E] what the mover loses; INFINITY where e has no tokens */
    double *price;  /* [E] potentials: the last token's distances */
    double *key;    /* [E] this token's distances, less the prices */
    int64_t *mover; /* [E, E] */
    int64_t *load;  /* [E] */
    int64_t *head;  /* [E] first of an expert's tokens, NOBODY: it has none */
    int64_t *next;  /* [n] */
    int64_t *from;  /* [E] where the shortest path to an expert comes from; NOBODY: the token */
    int64_t *by;    /* [E] and who moves along it */
    int64_t *done;  /* [E] */
    int64_t *lost;  /* [E] */
} state;

int64_t sy_assignment_bytes(int64_t n, int32_t E)
{
    return ((int64_t)E * (2 * E + 8) + n) * (int64_t)sizeof(double);
}

static void lay_out(int64_t n, int32_t E, void *work, state *s)
{
    double *real = work;
    int64_t *whole;
    s->cost = real;
    s->price = s->cost + (int64_t)E * E;
    s->key = s->price + E;
    whole = (int64_t *)(void *)(s->key + E);
    s->mover = whole;
    s->load = s->mover + (int64_t)E * E;
    s->head = s->load + E;
    s->from = s->head + E;
    s->by = s->from + E;
    s->done = s->by + E;
    s->lost = s->done + E;
    s->next = s->lost + E;
    for (int64_t i = 0; i < (int64_t)E * E; i++) {
        s->cost[i] = INFINITY;
        s->mover[i] = NOBODY;
    }
    for (int32_t e = 0; e < E; e++) {
        s->price[e] = 0;
        s->load[e] = 0;
        s->head[e] = NOBODY;
    }
    s->E = E;
    s->low = n / E;
    s->high_left = n % E;
}

/* ---- who is where ---- */

static void offer(state *s, int32_t e, int32_t f, int64_t t)
{
    const int64_t edge = (int64_t)e * s->E + f;
    const double c = s->score[t * s->E + e] - s->score[t * s->E + f];
    if (c < s->cost[edge] || (c == s->cost[edge] && t < s->mover[edge])) {
        s->cost[edge] = c;
        s->mover[edge] = t;
    }
}

static void put_in(state *s, int32_t e, int64_t t)
{
    s->next[t] = s->head[e];
    s->head[e] = t;
    s->high_left -= s->load[e]++ == s->low;
    for (int32_t f = 0; f < s->E; f++) {
        offer(s, e, f, t);
    }
}

static void take_out(state *s, int32_t e, int64_t t)
{
    int64_t *at = &s->head[e];
    while (*at != t) {
        at = &s->next[*at];
    }
    *at = s->next[t];
    s->high_left += --s->load[e] == s->low;
    int32_t n = 0; /* edges that lose their mover */
    for (int32_t f = 0; f < s->E; f++) {
        const int64_t edge = (int64_t)e * s->E + f;
        if (s->mover[edge] == t) {
            s->cost[edge] = INFINITY;
            s->mover[edge] = NOBODY;
            s->lost[n++] = f;
        }
    }
    for (int64_t i = s->head[e]; i != NOBODY && n > 0; i = s->next[i]) {
        for (int32_t k = 0; k < n; k++) {
            offer(s, e, (int32_t)s->lost[k], i);
        }
    }
}

/* ---- where a token goes ---- */

static bool has_room(const state *s, int32_t e)
{
    return s->load[e] < s->low || (s->load[e] == s->low && s->high_left > 0);
}

static void relax(state *s, int32_t e, int32_t f)
{
    /* an expert with one more than the others may give that place to one without */
    const bool gives = s->load[e] <= s->low && s->load[f] > s->low;
    double c = s->cost[(int64_t)e * s->E + f];
    int64_t by = s->mover[(int64_t)e * s->E + f];
    if (gives && c > 0) {
        c = 0;
        by = A_PLACE;
    }
    const double far = s->key[e] + fmax(c + s->price[e] - s->price[f], 0);
    if (by != NOBODY && far < s->key[f]) {
        s->key[f] = far;
        s->from[f] = e;
        s->by[f] = by;
    }
}

static int32_t nearest(const state *s)
{
    int32_t best = -1;
    for (int32_t e = 0; e < s->E; e++) {
        if (!s->done[e] && (best < 0 || s->key[e] < s->key[best])) {
            best = e;
        }
    }
    return best;
}

/* The expert with room that is nearest to token t; prices become the distances. */
static int32_t find_room(state *s, int64_t t)
{
    int32_t end = -1;
    for (int32_t e = 0; e < s->E; e++) {
        s->key[e] = -s->score[t * s->E + e] - s->price[e];
        s->from[e] = NOBODY;
        s->done[e] = 0;
    }
    for (int32_t i = 0; i < s->E; i++) {
        const int32_t e = nearest(s);
        s->done[e] = 1;
        for (int32_t f = 0; f < s->E; f++) {
            if (!s->done[f]) {
                relax(s, e, f);
            }
        }
    }
    for (int32_t e = 0; e < s->E; e++) {
        s->price[e] += s->key[e];
        if (has_room(s, e) && (end < 0 || s->price[e] < s->price[end])) {
            end = e;
        }
    }
    return end;
}

static void bring_in(state *s, int64_t t)
{
    int32_t f = find_room(s, t);
    while (s->from[f] != NOBODY) {
        const int32_t e = (int32_t)s->from[f];
        if (s->by[f] != A_PLACE) {
            take_out(s, e, s->by[f]);
            put_in(s, f, s->by[f]);
        }
        f = e;
    }
    put_in(s, f, t);
}

static void make_finite(double *score, int64_t n)
{
    double least = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        least = isfinite(score[i]) ? fmin(least, score[i]) : least;
    }
    for (int64_t i = 0; i < n; i++) {
        score[i] = isfinite(score[i]) ? score[i] : isfinite(least) ? least : 0;
    }
}

void sy_assignment_solve(double *score, int64_t n, int32_t E, void *work, int32_t *expert)
{
    state s = {.score = score};
    lay_out(n, E, work, &s);
    make_finite(score, n * E);
    for (int64_t t = 0; t < n; t++) {
        bring_in(&s, t);
    }
    for (int32_t e = 0; e < E; e++) {
        for (int64_t t = s.head[e]; t != NOBODY; t = s.next[t]) {
            expert[t] = e;
        }
    }
}
