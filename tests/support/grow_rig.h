/* Small dense models and what recipes make of them, by way of files as the commands do it. Every
   function is collective over the test's world and asserts. */
#ifndef SY_TESTS_GROW_RIG_H
#define SY_TESTS_GROW_RIG_H

#include "tests/support/engine_probe.h"
#include "upcycle/recipe.h"

enum {
    GROW_E = 12,
    GROW_H = 16,
    GROW_F = 20,
    GROW_V = 256,
    GROW_SET = 8,
    GROW_SEED = 9,
    GROW_SOURCES = 3
};

extern const char *const grow_none[GROW_SET];

typedef struct grow_model {
    sy_run_settings settings;
    sy_engine *engine;
    bool preserves; /* what the recipe says that filled it */
} grow_model;

/* A model of 3 layers with these KEY=VALUE, without values. */
void grow_open(grow_model *m, const char *backend, int32_t experts, int32_t ep,
               const char *const *set);
void grow_close(grow_model *m);
/* A dense model with values, and what it says of three sequences. */
void grow_open_dense(grow_model *dense, const char *backend, const char *const *set,
                     sy_probe *says);
/* GROW_SOURCES of them in double, with the same values or each with its own; says is of the last.
 */
void grow_open_three(grow_model *dense, sy_probe *says, bool equal);

/* n sources; the recipe fills moe. */
sy_status grow_make(grow_model *dense, int32_t n, grow_model *moe, sy_recipe_spec spec);
sy_probe_gap grow_gap(grow_model *moe, const sy_probe *dense);
typedef struct grow_verdict {
    double gap;     /* of logits, relative */
    bool preserves; /* what the recipe says */
} grow_verdict;
/* Both at once, for GROW_E experts in double on as many ranks as they allow. */
grow_verdict grow_judge(grow_model *dense, int32_t n, const sy_probe *says, sy_recipe_spec spec,
                        const char *const *set);
/* Values of a parameter of a model in double, as this rank has them; freed with free. */
double *grow_fetch(const grow_model *m, const char *name, int64_t *n);

/* The path of a file in the test case's folder, into a buffer of its own; returns it. Not
   collective. */
const char *grow_path(const char *name, char path[1024]);
/* The folder of a test case; see GROW_CASE. */
int grow_folder_open(void **state);
int grow_folder_close(void **state);
#define GROW_CASE(name) cmocka_unit_test_setup_teardown(name, grow_folder_open, grow_folder_close)

#endif
