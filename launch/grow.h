/* A new model out of others: what upcycle and merge share. Sources are checkpoints or Hugging Face
   folders; the new file is written under a hidden name, proven where there is something to prove,
   and only then gets its own. */
#ifndef SY_LAUNCH_GROW_H
#define SY_LAUNCH_GROW_H

#include "launch/cli.h"
#include "train/probe.h"
#include "upcycle/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_GROW_DERIVED = 16 };

typedef struct sy_grow {
    const sy_cli *cli;
    sy_env *env;
    const char *out;
    char *unproven; /* the hidden name */
    sy_source **source;
    sy_run_settings *source_settings; /* [n_sources] */
    int32_t n_sources;
    char *derived[SY_GROW_DERIVED]; /* KEY=VALUE of the new configuration, before --set */
    int32_t n_derived;
    sy_run_settings settings; /* of the new model */
    char *config_yaml;
    int32_t *expert_source; /* [experts]; NULL: no expert is made of anything else */
    sy_recipe_spec spec;
    sy_recipe *recipe;
    bool carry; /* the optimizer's state goes along */
} sy_grow;

/* Check -o, open and bind the sources. Collective. The same rules of shape and rotary angles for
   all of them: SY_ERR_USAGE names the key. */
sy_status sy_grow_open(sy_grow *g, const char *const *sources, int32_t n);
void sy_grow_close(sy_grow *g);
/* Add "key=value" to what the new configuration says before --set. Not collective. */
sy_status sy_grow_derive(sy_grow *g, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* So many shared experts, together as wide as the first source's MLP. Not collective. */
sy_status sy_grow_derive_shared(sy_grow *g, int64_t n);
bool sy_grow_user_sets(const sy_grow *g, const char *key);
/* The first source's configuration with what was derived and --set. Its vocabulary may be larger
   than the source's, not smaller (SY_ERR_USAGE). Collective. */
sy_status sy_grow_configure(sy_grow *g);
/* Write the new model under the hidden name, as g->spec says. Collective. */
sy_status sy_grow_write(sy_grow *g, sy_transfer_receipt *receipt);
/* How far the new model is from the first source on random tokens. Collective; loads both. */
sy_status sy_grow_compare(sy_grow *g, sy_probe_spec *probe, sy_probe_gap *gap, sy_dtype *compute);
/* Give the file its name. Collective. */
sy_status sy_grow_publish(sy_grow *g);

#ifdef __cplusplus
}
#endif
#endif
