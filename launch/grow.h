/* A new model out of others: what upcycle and merge share. Sources are checkpoints or Hugging Face
   folders; the new file is written under a hidden name, proven where there is something to prove,
   and only then gets its own. */
#ifndef SY_LAUNCH_GROW_H
#define SY_LAUNCH_GROW_H

#include "launch/cli.h"
#include "train/compare.h"
#include "upcycle/carry.h"
#include "upcycle/receipt.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_GROW_DERIVED = 16, SY_GROW_GAPS = 2 };

/* What was measured on the file before it got its name. */
typedef struct sy_grow_proof {
    sy_receipt *receipt;
    bool preserves; /* it computes what the first source does, */
    bool weighs;    /* or in each MoE layer that times the routers' weights: promises both */
    int32_t n_sequences, S;           /* random tokens of each rank */
    sy_compare_gap gap[SY_GROW_GAPS]; /* [n_gaps] against the first source: f64, or f32 and bf16;
                                         none where the sources differ */
    int32_t n_gaps;
    double seconds;
} sy_grow_proof;

typedef struct sy_grow {
    const sy_cli *cli;
    sy_env *env;
    const char *out;
    char *unproven; /* the hidden name */
    char *lock;     /* held by rank 0; NULL: by none */
    int lock_fd;
    sy_source **source;
    sy_run_settings *source_settings; /* [n_sources] */
    int32_t n_sources;
    char *derived[SY_GROW_DERIVED]; /* KEY=VALUE of the new configuration, before --set */
    int32_t n_derived;
    sy_run_settings settings; /* of the new model */
    char *config_yaml;
    double *router_rows;    /* what the recipe's points at */
    int32_t *expert_source; /* [experts]; NULL: no expert is made of anything else */
    sy_recipe_spec spec;
    sy_recipe *recipe;
    bool carry; /* the optimizer's state goes along: */
    sy_carry *carried;
    sy_grow_proof proof;
} sy_grow;

/* Check -o, open and bind the sources. Collective. The same rules of shape and rotary angles for
   all of them: SY_ERR_USAGE names the key. */
sy_status sy_grow_open(sy_grow *g, const char *const *sources, int32_t n);
void sy_grow_close(sy_grow *g);
/* ".name.end" beside the output. Not collective. */
sy_status sy_grow_hidden_name(const sy_grow *g, const char *end, char **out);
/* Keep other commands from writing this output (SY_ERR_USAGE: one does) until unlocked; a process
   that dies lets go. Collective; unlocking is not. */
sy_status sy_grow_lock(sy_grow *g);
void sy_grow_unlock(sy_grow *g);
/* Add "key=value" to what the new configuration says before --set. Not collective. */
sy_status sy_grow_derive(sy_grow *g, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* So many shared experts, together as wide as the first source's MLP. Not collective. */
sy_status sy_grow_derive_shared(sy_grow *g, int64_t n);
bool sy_grow_user_sets(const sy_grow *g, const char *key);
/* The first source's configuration with what was derived and --set. Its vocabulary may be larger
   than the source's, not smaller (SY_ERR_USAGE). Collective. */
sy_status sy_grow_configure(sy_grow *g);
/* Write the new model under the hidden name, as g->spec says; read it back, print the receipt, put
   it in, give the file its name. A promise that does not hold: SY_ERR_NUMERIC. Nothing is left
   behind after an error. Collective. */
sy_status sy_grow_run(sy_grow *g, sy_transfer_receipt *written);
/* Give the file its name. Collective. */
sy_status sy_grow_publish(sy_grow *g);

#ifdef __cplusplus
}
#endif
#endif
