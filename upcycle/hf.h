/* The architectures of Hugging Face that Switchyard knows, as data: how a config.json says what our
   configuration says, and which element of which of their tensors is which element of ours. Import
   and export read the same tables in opposite directions, so what goes in comes out. Nothing here
   is collective, and no file is touched. */
#ifndef SY_UPCYCLE_HF_H
#define SY_UPCYCLE_HF_H

#include "core/dtype.h"
#include "model/model_config.h"
#include "moe/moe_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_hf_arch {
    SY_HF_LLAMA,
    SY_HF_MISTRAL,
    SY_HF_QWEN2,
    SY_HF_QWEN3,
    SY_HF_MIXTRAL,
    SY_HF_QWEN2_MOE,
    SY_HF_QWEN3_MOE,
    SY_HF_OLMOE,
    SY_HF_GRANITE_MOE_SHARED,
    SY_HF_DEEPSEEK_V2,
    SY_HF_DEEPSEEK_V3,
    SY_N_HF_ARCHS
} sy_hf_arch;

/* "MixtralForCausalLM"; and back, or from the model_type: SY_ERR_USAGE naming the nearest and all.
 */
const char *sy_hf_arch_name(sy_hf_arch arch);
sy_status sy_hf_arch_parse(const char *name, sy_hf_arch *out);

/* ---- config.json ---- */

/* config.json as our configuration: YAML text with sections model, moe and data (tokenizer none),
   every key of model and moe that matters set; keys that are not there have the defaults of the
   classes of transformers. path is for messages. SY_ERR_USAGE names the file, the key and
   its value where it is of an architecture or a feature that we have not (formats.md 2.2), of a
   wrong type, or does not make sense. *yaml is freed with sy_free. */
sy_status sy_hf_config_read(const char *path, const char *json, size_t json_bytes, sy_hf_arch *arch,
                            char **yaml);
/* The same where the weights lack DeepSeek-V3's blocks that predict further tokens: transformers
   leaves them out where it saves a model, and keeps the key that counts them. */
sy_status sy_hf_config_read_without_mtp(const char *path, const char *json, size_t json_bytes,
                                        sy_hf_arch *arch, char **yaml);

typedef struct sy_hf_config_spec {
    sy_hf_arch arch;
    const sy_model_config *model;
    const sy_moe_config *moe;
    sy_dtype dtype;
    /* The config.json that the checkpoint was imported from ("" where it was not): what it says of
       tokens (bos_token_id, ...) and of what we do not use is kept. */
    const char *source_json;
} sy_hf_config_spec;
/* The config.json of our model as transformers v5 (and v4) accepts it. Freed with sy_free.
   SY_ERR_USAGE as sy_hf_can_hold. */
sy_status sy_hf_config_write(const sy_hf_config_spec *spec, char **json);

/* May the model be stored as this architecture without loss? SY_ERR_USAGE gives the reason, and the
   architectures that may. */
sy_status sy_hf_can_hold(sy_hf_arch arch, const sy_model_config *model, const sy_moe_config *moe);
/* The first architecture that holds the model without a trick, then one that does with one;
   SY_ERR_USAGE with the reason for each where there is none. */
sy_status sy_hf_choose(const sy_model_config *model, const sy_moe_config *moe, sy_hf_arch *out);

/* ---- tensors ---- */

enum { SY_HF_NAME = 128, SY_HF_DIM = 3 };

/* Elements [their_first, +n) of their tensor are elements [our_first, +n) of ours times scale.
   our < 0: no tensor of ours; theirs are all `fill`. copy: what another link maps already, once
   more for whoever writes; not read. */
typedef struct sy_hf_link {
    int32_t our, their; /* of the map */
    int64_t our_first, their_first, n;
    double scale; /* a power of two */
    double fill;
    bool copy;
} sy_hf_link;

typedef struct sy_hf_tensor {
    char name[SY_HF_NAME]; /* ours: below /model, "layers/003/attn/q" */
    int32_t n_dim;
    int64_t shape[SY_HF_DIM];
    bool wide; /* ours: kept in fp32 (f64) in a bf16 model */
} sy_hf_tensor;

typedef struct sy_hf_map {
    sy_hf_tensor *our, *their; /* ours: as declared by sy_decoder_create; theirs: by layer */
    sy_hf_link *link; /* by our, then our_first; fills and copies last. They cover both sides
                         exactly */
    int32_t n_our, n_their, n_links;
} sy_hf_map;

/* How a file holds experts: a tensor for each, as files have them, or all of a layer's in one
   (transformers v5 in memory, mergekit). Granite's own files have one too, under other names: that
   is its SY_HF_PER_EXPERT. */
typedef enum sy_hf_form { SY_HF_PER_EXPERT, SY_HF_FUSED } sy_hf_form;

/* The map of a model that the architecture can hold (else SY_ERR_USAGE; also where it has more than
   2^20 tensors). Freed with sy_hf_map_free. A configuration that was read from config.json gives a
   map without fills and scales, but for Qwen2-MoE without qkv_bias: a tensor of theirs that is made
   of fills or copies alone may be missing in a file. */
sy_status sy_hf_map_create(sy_hf_arch arch, sy_hf_form form, const sy_model_config *model,
                           const sy_moe_config *moe, sy_hf_map *out);
void sy_hf_map_free(sy_hf_map *map);
/* Which form has a tensor of this name? For looking at a file before making the map. *known: is it
 * one of the experts' at all? */
sy_hf_form sy_hf_form_of(const char *their_name, bool *known);
/* A tensor that loaders ignore (rotary_emb.inv_freq; lm_head.weight where embeddings are tied;
   DeepSeek's blocks beyond those that config.json counts). */
bool sy_hf_is_ignored(const char *their_name, const sy_model_config *model);

#ifdef __cplusplus
}
#endif
#endif
