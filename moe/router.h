/* Routers: ways to fill the list of choices. A router is one file in moe/routers/, one line in
   moe/routers_list.h, one line in meson.build, one row in the test tables, one preset.
   Two kinds: those made of device ops (choose -> capacity -> weigh; the top-k family), and those
   with a table `host`: plain C on host copies in double (moe/host_route.h), at the price of a host
   wait per layer in forward and one in backward; docs/ROUTERS.md has all of them, and how to add
   one. */
#ifndef SY_MOE_ROUTER_H
#define SY_MOE_ROUTER_H

#include "moe/moe_config.h"
#include "moe/routers_list.h"
#include "model/sublayer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Choices of a micro-batch: up to K per token, in slots [T, K]; expert -1 in a slot that is not
 * used. All in p->keep. */
typedef struct sy_choices {
    int64_t T;
    int32_t K;
    sy_tensor token, expert; /* [T, K] I32 */
    sy_tensor kept;          /* [T, K] U8, written by capacity; absent: all are kept */
    sy_tensor priority;      /* [T, K] wide, what capacity by probability sorts by */
    sy_tensor counted;       /* [T, K] I32: what the balance loss counts; absent: expert */
    sy_tensor weight;        /* [T, K] wide: combine weights */
    sy_tensor kept_sum;      /* [T] wide, where weights were renormalized after drops */
    sy_tensor weight_grad;   /* [T, K] wide: what the experts' gradients use; absent: weight */
} sy_choices;

/* Scores of a micro-batch. All in p->keep. */
typedef struct sy_scores {
    sy_tensor z, p, lse;
} sy_scores; /* [T, E], [T, E], [T] wide */

typedef enum sy_router_trait {
    SY_ROUTER_NO_CAPACITY = 1,    /* capacity is part of the choice, or there is none */
    SY_ROUTER_LOOKS_AHEAD = 2,    /* a later token may decide an earlier one, in evaluation too */
    SY_ROUTER_NO_AUX = 4,         /* the balance loss has no place: its coefficient must be 0 */
    SY_ROUTER_NO_Z = 8,           /* nor has the z-loss */
    SY_ROUTER_OWN_COUNT = 16,     /* says itself which loads the balance loss counts */
    SY_ROUTER_FIXED_WEIGHTS = 32, /* moe.score and moe.normalize_weights do not apply */
    SY_ROUTER_TWO_WEIGHTS = 64,   /* gradients use other weights than the output */
    SY_ROUTER_FIRST_COUNT = 128,  /* with its own count: moe.aux_loss_counts first is one */
    SY_ROUTER_MICRO_BATCH = 256,  /* in training, what it does depends on who is in a micro-batch */
    SY_ROUTER_ESTIMATES = 512     /* its gradient is meant to be another than that of the output */
} sy_router_trait;

enum { SY_ROUTER_ALL = -1, SY_ROUTER_PIECES = 3, SY_ROUTER_PARAMS = 2 };

/* What a router on the host owns beside slots. All optional but K. */
typedef struct sy_router_layout {
    int64_t H;        /* given: the model's width */
    int32_t K;        /* slots per token (default: top_k) */
    int32_t M;        /* rows of its matrix W [M, H], in = x W^T (default: E; 0: no matrix) */
    bool reads_x;     /* in is x itself, [T, H]; there is no matrix, and M is set to H */
    int32_t n_pieces; /* W in the file: "router", or pieces */
    const char *piece[SY_ROUTER_PIECES];
    int32_t piece_rows[SY_ROUTER_PIECES]; /* all 0: of equal height */
    bool zero_matrix;                     /* begins with zeros */
    bool zero_experts; /* the experts' last matrices begin with zeros, so their outputs do */
    int32_t n_params;  /* small parameters whose gradients the router computes */
    struct {
        const char *name;
        int64_t shape[2];
        sy_init init;
        double std;
        bool above; /* only in layers above another MoE layer: what reads `below` */
        bool by_id; /* a row per id (shape[0] is the vocabulary's), and the router sees the rows
                       of its tokens: [T, shape[1]] */
    } param[SY_ROUTER_PARAMS];
    /* Terms of the output that are computed where the token is, y_t += copy_t x_t +
       sum_j mix_tj v_j: the router gives copy [T] and mix [T, n_vectors], and gets their gradients;
       the vectors v [n_vectors, H] are parameters ("vectors"). */
    bool copies;
    int32_t n_vectors;
    double vectors_std;
    int32_t n_carry;   /* numbers per token that the next MoE layer's router sees */
    double computed;   /* experts per token where loads are as wished (default: top_k) */
    double share;      /* of all choices, an expert's where they are (default: 1 / E) */
    int64_t n_state;   /* numbers that are saved and that end_step changes; they begin with zeros */
    bool state_per_id; /* and behind them one for every id of the vocabulary */
    bool from_data;    /* `begin` makes the state; checkpoints may lack it: then it is zeros */
    int64_t n_sums;    /* numbers that are summed over the tokens of a step, for end_step */
} sy_router_layout;

struct sy_host_route; /* moe/host_route.h */

/* Plain C on a micro-batch in double; T may be 0. */
/* What a core takes for each token and expert: so many ns, and more for each expert there is. */
typedef struct sy_host_cost {
    double ns, ns_per_expert;
} sy_host_cost;

typedef struct sy_host_router_ops {
    /* Of score and choose, and of their way back: measured, for `estimate` (docs/ROUTERS.md). */
    sy_host_cost forward_cost, backward_cost;
    /* Change what differs from the defaults. (optional) */
    void (*layout)(const sy_moe_config *config, sy_router_layout *out);
    /* Bytes of r->work. (optional: none) */
    int64_t (*work_bytes)(const struct sy_host_route *r);
    /* z [T, E] from in [T, M]. (optional: z is in) */
    void (*score)(struct sy_host_route *r);
    /* expert, weight [T, K] from z; routed tokens only. */
    void (*choose)(struct sy_host_route *r);
    /* dz += what comes from g [T, K] (0 where dropped) and from losses of its own; these to
     * r->loss. dz already has the common losses. */
    void (*backward)(struct sy_host_route *r);
    /* din += from dz; gradients of own parameters +=. With `score` only. */
    void (*score_backward)(struct sy_host_route *r);
    /* State for a run that begins anew, from the shares [vocab] of the training data's tokens that
     * each id has; the same on all ranks. With `from_data`. */
    sy_status (*begin)(const sy_moe_config *config, const double *share, int64_t vocab,
                       int32_t layer, double *state);
    /* State after a step that was not skipped, from sums over all ranks: the same on all of them,
     * whatever the layout. (optional) */
    void (*end_step)(const sy_moe_config *config, const sy_step_end *end, int32_t layer,
                     double *state);
    /* Likewise, with the router's own parameters, which may be changed by hand; true if they were.
     * The optimizer's moments stay. (optional) */
    bool (*adapt)(const sy_moe_config *config, const sy_step_end *end, int32_t layer, double *state,
                  double *const *param);
    /* Has the state come to where `adapt` is to be called? Parameters are copied for it only then.
     * (optional: always) */
    bool (*is_time)(const sy_moe_config *config, const double *state);
} sy_host_router_ops;

/* A loss of the router's own, for whoever explains it: the key of its coefficient and what that
   multiplies, in the letters of docs/NUMERICS.md 3. With the key moe.aux_loss_coeff: what the
   balance loss is with this router. */
typedef struct sy_router_loss {
    const char *key, *formula;
} sy_router_loss;

typedef struct sy_router_ops {
    const char *name, *source; /* source: paper and section */
    uint32_t traits;
    int32_t only_top_k; /* the one moe.top_k there is (0: any; SY_ROUTER_ALL: moe.experts), and its
                           default then */
    /* Settings that do not go together, through sy_config_error; after parsing. (optional) */
    sy_status (*check)(const sy_moe_config *config, const sy_config *all);
    const char *metric; /* name of r->metric per routed token, "moe/router_<metric>"; NULL: none */
    const sy_router_loss *losses; /* ends with key NULL; NULL: none */
    /* As SY_ROUTER_MICRO_BATCH, of what is configured. (optional) */
    bool (*sees_micro_batch)(const sy_moe_config *config);
    const sy_host_router_ops *host;
    /* Fill token, expert and (where drop_policy is probability) priority; in training perhaps make
     * counted, in p->keep. bias [E] wide may be absent. */
    sy_status (*choose)(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                        const sy_tensor *bias, sy_choices *c);
    /* Fill weight, after drops. */
    sy_status (*weigh)(const sy_moe_config *config, sy_pass *p, const sy_scores *s, sy_choices *c);
    /* dz [T, E] wide from G [T, K] wide (0 where dropped), and from losses of its own; these, with
     * their coefficients, are added to loss [1] F64. */
    sy_status (*backward)(const sy_moe_config *config, sy_pass *p, const sy_scores *s,
                          const sy_choices *c, const sy_tensor *g, const sy_tensor *loss,
                          sy_tensor *dz);
} sy_router_ops;

/* NULL if there is none of that name. Not collective. */
const sy_router_ops *sy_router_find(const char *name);
/* All names, NULL-terminated. Not collective. */
const char *const *sy_router_names(void);
/* What the configuration's router owns in a model of width H, slots per token among it. Requires
 * that there is such a router. Not collective. */
void sy_router_layout_of(const sy_moe_config *config, int64_t H, sy_router_layout *out);
/* Numbers per layer that the router sums over a step. Not collective. */
int64_t sy_router_sums(const sy_moe_config *config, int64_t H);
/* Slots per token (K). Not collective. */
int32_t sy_router_slots(const sy_moe_config *config);
/* After parsing: refuse settings that do not go together, and another router's section; set
 * defaults that depend on the router; config->own becomes the section of the chosen one. Not
 * collective. */
sy_status sy_router_settle(sy_config *config);

/* The sections "moe.<name>" of routers with settings of their own. */
#define SY_ROUTER_NO_SECTION(name)
#define SY_ROUTER_SECTION(name) extern const sy_config_section sy_router_section_##name;
SY_ROUTERS(SY_ROUTER_NO_SECTION, SY_ROUTER_SECTION)
#undef SY_ROUTER_SECTION

#ifdef __cplusplus
}
#endif
#endif
