/* Between the files of hf: what an architecture is (hf.c), what it can hold (hf_fit.c), its
   config.json (hf_read.c, hf_rope.c, hf_write.c, hf_deepseek.c), its tensors (hf_map.c). */
#ifndef SY_UPCYCLE_HF_IMPL_H
#define SY_UPCYCLE_HF_IMPL_H

#include <jansson.h>

#include "upcycle/hf.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a key of our configuration stands in config.json. */
typedef struct sy__hf_key {
    const char *json;  /* its key there; NULL: none, our key can only have the value `absent` */
    const char *ours;  /* "model.hidden" */
    double absent;     /* value where the key is missing; kv_heads and head_dim 0: derived */
    const char *alias; /* another key that says the same; NULL: none */
} sy__hf_key;

/* A key of config.json that we know with one value only. */
typedef struct sy__hf_only {
    const char *json, *value; /* the value as JSON */
} sy__hf_only;

/* Our tensors of a block. */
typedef enum sy__hf_slot {
    SY__HF_NO_SLOT,
    SY__HF_ATTN_NORM,
    SY__HF_Q,
    SY__HF_K,
    SY__HF_V,
    SY__HF_Q_BIAS,
    SY__HF_K_BIAS,
    SY__HF_V_BIAS,
    SY__HF_O,
    SY__HF_Q_NORM,
    SY__HF_K_NORM,
    SY__HF_Q_A,
    SY__HF_Q_A_NORM,
    SY__HF_Q_B,
    SY__HF_KV_A,
    SY__HF_KV_A_NORM,
    SY__HF_KV_B,
    SY__HF_FFN_NORM,
    SY__HF_GATE,
    SY__HF_UP,
    SY__HF_DOWN,
    SY__HF_MTP_EMBED_NORM,
    SY__HF_MTP_HIDDEN_NORM,
    SY__HF_MTP_PROJ,
    SY__HF_MTP_NORM,
    SY__HF_ROUTER,
    SY__HF_ROUTER_BIAS,
    SY__HF_EXPERT_GATE,
    SY__HF_EXPERT_UP,
    SY__HF_EXPERT_DOWN,
    SY__HF_SHARED_GATE,
    SY__HF_SHARED_UP,
    SY__HF_SHARED_DOWN,
    SY__HF_SHARED_ROUTER,
    SY__HF_N_SLOTS
} sy__hf_slot;

/* One of their tensors of a block: the slot's, or the rows of two slots one after the other. */
typedef struct sy__hf_name {
    const char *name; /* below model.layers.<i>.; with a '*': a tensor for each expert */
    sy__hf_slot slot, second;
} sy__hf_name;

typedef enum sy__hf_shared {
    SY__HF_SHARED_NONE,
    SY__HF_SHARED_PLAIN, /* width 0: none */
    SY__HF_SHARED_GATED  /* always there, and gated */
} sy__hf_shared;

typedef enum sy__hf_heads {
    SY__HF_HEADS_ANY,
    SY__HF_HEADS_DIVIDE, /* heads divides hidden */
    SY__HF_HEADS_FILL    /* heads * head_dim = hidden */
} sy__hf_heads;

/* Who attends to a window only: nobody; everybody, where sliding_window is not null; whoever
   use_sliding_window says, then from layer max_window_layers on. */
typedef enum sy__hf_window {
    SY__HF_WINDOW_NONE,
    SY__HF_WINDOW_ALWAYS,
    SY__HF_WINDOW_SWITCHED
} sy__hf_window;

typedef struct sy__hf_arch {
    const char *name, *model_type;
    bool moe;
    const sy__hf_key *keys;  /* ends with ours NULL */
    const sy__hf_only *only; /* ends with json NULL */
    const char *extra;       /* JSON: what is written where the source says nothing */
    double rope_theta;       /* where config.json has none */
    sy__hf_window window;
    double sliding_window; /* where config.json has none; 0: null */
    sy__hf_heads heads;
    bool has_bias;    /* biases on q, k, v are always written, as zeros if need be */
    bool latent;      /* attention is; DeepSeek's own keys (hf_deepseek.c) */
    bool router_bias; /* DeepSeek-V3's, and what goes with it: blocks that predict further tokens */
    bool dense_layers; /* single layers may be dense: mlp_only_layers, decoder_sparse_step */
    sy__hf_shared shared;
    const sy__hf_name *moe_names[2]; /* by sy_hf_form; end with name NULL */
} sy__hf_arch;

const sy__hf_arch *sy__hf_arch_at(sy_hf_arch arch);
/* By its name or model_type. where: the file that names it, NULL if none does. */
sy_status sy__hf_arch_find(const char *where, const char *name, sy_hf_arch *out);
/* The tensors of a block that are no experts: the same in every architecture. */
extern const sy__hf_name sy__hf_block_names[];
/* Below a block that predicts further tokens: copies of the model's own, which its loaders ask for.
 */
#define SY__HF_MTP_EMBED "embed_tokens.weight"
#define SY__HF_MTP_HEAD "shared_head.head.weight"

/* The width of the shared expert that stands for none, where an architecture always has one. */
enum { SY__HF_NO_SHARED_WIDTH = 64 };

/* Our key "model.hidden": its row in the section's table; *moe: is it of section moe? */
const sy_config_key *sy__hf_config_key(const char *ours, bool *moe);
/* Numbers, booleans, enums (their index); NAN for null. */
double sy__hf_get(const char *ours, const sy_model_config *model, const sy_moe_config *moe);
int32_t sy__hf_n_moe_layers(const sy_model_config *model, const sy_moe_config *moe);
/* Balance loss: transformers pools the layers and counts K at balance; we add them up, 1 each. */
double sy__hf_aux_factor(const sy_model_config *model, const sy_moe_config *moe);

/* The fewest digits, 15 to 17, that give the same double again. */
int sy__hf_digits(double value);

enum { SY__HF_WHY = 160 };
/* Can the architecture hold the model? If not, why [SY__HF_WHY] says what stands against it; if it
   can, *trick tells whether something must be added or scaled. */
bool sy__hf_fits(const sy__hf_arch *a, const sy_model_config *model, const sy_moe_config *moe,
                 char *why, bool *trick);

/* ---- reading config.json ---- */

enum { SY__HF_TEXT = 16384 };

typedef struct sy__hf_reader {
    const char *path;
    json_t *root;
    const sy__hf_arch *arch;
    bool no_mtp; /* the weights have no blocks that predict further tokens, whatever it says */
    char *text;  /* [SY__HF_TEXT] the YAML so far */
    size_t n_text;
} sy__hf_reader;

/* The object that the text is, into root, which the caller gives back; path is there. */
sy_status sy__hf_parse(sy__hf_reader *r, const char *json, size_t json_bytes);
/* JSON as text. Freed with sy_free. */
sy_status sy__hf_dump(const json_t *value, size_t flags, char **out);
/* Text of a file for a message: one line of printable ASCII, cut to fit. Returns buf. */
const char *sy__hf_show(const char *text, char *buf, size_t buf_bytes);
/* "PATH: key is value: reason". value NULL: not there. Returns SY_ERR_USAGE. */
sy_status sy__hf_refuse(const sy__hf_reader *r, const char *key, const json_t *value,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Append to the YAML; a key of ours with its value. */
void sy__hf_add(sy__hf_reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sy__hf_add_value(sy__hf_reader *r, const char *ours, double value);
/* A key that is there and not null; NULL otherwise. */
json_t *sy__hf_find(const sy__hf_reader *r, const char *json);
/* Everything but the rotary angles: SY_OK, or what is refused. */
sy_status sy__hf_check(const sy__hf_reader *r);
/* Has a value the type and the range of our key? NULL: it is missing. */
sy_status sy__hf_check_value(const sy__hf_reader *r, const char *name, const json_t *value,
                             const char *ours);
/* Once checked: the value of a key, or its default where it is not there; by our name of it. */
double sy__hf_value(const sy__hf_reader *r, const sy__hf_key *key);
double sy__hf_number(const sy__hf_reader *r, const char *ours);
/* DeepSeek's own keys, into the YAML: of section model, of section moe; and back. */
sy_status sy__hf_read_latent(sy__hf_reader *r);
sy_status sy__hf_read_deepseek(sy__hf_reader *r);
sy_status sy__hf_write_deepseek(json_t *root, const sy__hf_arch *a, const sy_model_config *model,
                                const sy_moe_config *moe);
/* sy__hf_fits beyond what the tables say. */
bool sy__hf_deepseek_fits(const sy__hf_arch *a, const sy_model_config *model,
                          const sy_moe_config *moe, char *why, bool *trick);
/* The rotary angles, from either generation's keys, into the YAML. */
sy_status sy__hf_read_rope(sy__hf_reader *r);

#ifdef __cplusplus
}
#endif
#endif
