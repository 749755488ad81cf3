/* Between the files of source_lora: what adapter_config.json says (source_lora_config.c), what that
   does to the base (source_lora_match.c). */
#ifndef SY_UPCYCLE_SOURCE_LORA_IMPL_H
#define SY_UPCYCLE_SOURCE_LORA_IMPL_H

#include "checkpoint/safetensors.h"
#include "upcycle/hf_impl.h"
#include "upcycle/source.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy__lora_config {
    sy__hf_reader file;     /* path, borrowed; root: patterns and lists stay there */
    const char *base_model; /* NULL: it names none */
    int64_t r;
    double alpha;
    bool rank_stabilized; /* over the root of r */
} sy__lora_config;

/* Check every key that changes what an adapter means. SY_ERR_USAGE names the file, the key and its
   value: another kind than LoRA, a variant that is more than W + B A, a wrong type. Not collective.
 */
sy_status sy__lora_config_read(const char *path, const char *json, sy__lora_config *out);
void sy__lora_config_free(sy__lora_config *c);

/* "q_proj", "self_attn.q_proj": is it the end of the module's name, or all of it? As PEFT does it,
   a leading '^' asks for all. Not collective. */
bool sy__lora_names(const char *name, const char *module);
/* The rank of a module ("model.layers.0.self_attn.q_proj") and what its B A is multiplied with.
   Not collective. */
int64_t sy__lora_rank(const sy__lora_config *c, const char *module);
double sy__lora_scale(const sy__lora_config *c, const char *module);

/* Has the module an adapter? A regular expression is not evaluated: then the file decides. */
typedef enum sy__lora_aim { SY__LORA_NO, SY__LORA_YES, SY__LORA_UNKNOWN } sy__lora_aim;
/* Not collective. */
sy__lora_aim sy__lora_aims_at(const sy__lora_config *c, const char *module);

/* What is done to one of their tensors [rows, columns]: it is replaced, or gets
   scale sum_k left[row, k] right[k, column], or both. */
typedef struct sy__lora_change {
    const sy_st_tensor *whole, *a, *b; /* NULL: not there */
    int64_t r;
    double scale;
    bool embedding; /* (B A)^T is added: an embedding has as rows what a matrix has as columns */
} sy__lora_change;

/* What a source of an adapter shows as a tensor (source_lora_keep.c). */
typedef enum sy__lora_side { SY__LORA_SUM, SY__LORA_BASE, SY__LORA_A, SY__LORA_B } sy__lora_side;
typedef struct sy__lora_kept sy__lora_kept;

typedef struct sy__lora {
    sy_source *base;
    char *path; /* of adapter_config.json */
    char *json;
    sy__lora_config config;
    sy_st_set *set;
    sy_hf_map map;
    sy__lora_change *change;        /* [n_their] */
    int32_t *first;                 /* [n_our + 1] links */
    int32_t *our;                   /* [n_tensors] of the map, by the source's number */
    const sy__lora_change *current; /* whose right side is below */
    double *right;                  /* [r, columns] */
    double *sum;                    /* a block of a tensor */
    void *rounded;                  /* the same in its own type */
    sy__lora_kept *kept;            /* NULL: every tensor is the sum */
} sy__lora;

/* Fill `change` once the base is bound and the map made. SY_ERR_USAGE names the tensor that has no
   place in the base, is missing, contradicts adapter_config.json or has another shape. Not
   collective. */
sy_status sy__lora_match(sy__lora *l, const sy_model_config *model);

/* Not collective, all of them. Element `at` of one of the adapter's tensors; elements [first, first
   + n) of what a tensor of side A or B shows, in another type. */
sy__lora_side sy__lora_side_of(const sy__lora *l, int32_t tensor);
double sy__lora_value(const sy_st_tensor *t, int64_t at);
void sy__lora_read_factor(const sy_source *s, int32_t tensor, int64_t first, int64_t n,
                          sy_dtype dtype, void *h_to);
void sy__lora_kept_free(sy__lora_kept **kept);

#ifdef __cplusplus
}
#endif
#endif
