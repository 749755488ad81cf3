/* What the name of a tensor in a file says by itself. */
#include <stdio.h>
#include <string.h>

#include "upcycle/hf_impl.h"

/* Is the text the pattern, with digits for its '*'? */
static bool matches(const char *pattern, const char *text)
{
    const char *star = strchr(pattern, '*');
    if (star == NULL) {
        return strcmp(pattern, text) == 0;
    }
    size_t before = (size_t)(star - pattern);
    if (strncmp(pattern, text, before) != 0) {
        return false;
    }
    size_t digits = strspn(text + before, "0123456789");
    return digits > 0 && strcmp(star + 1, text + before + digits) == 0;
}

/* What stands behind "model.layers.<i>."; NULL for another name. */
static const char *below_layer(const char *name)
{
    static const char prefix[] = "model.layers.";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) {
        return NULL;
    }
    name += sizeof prefix - 1;
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && name[digits] == '.' ? name + digits + 1 : NULL;
}

static bool is_expert(sy__hf_slot slot)
{
    return slot >= SY__HF_EXPERT_GATE && slot <= SY__HF_EXPERT_DOWN;
}

sy_hf_form sy_hf_form_of(const char *their_name, bool *known)
{
    const char *text = below_layer(their_name);
    *known = false;
    for (int32_t i = 0; text != NULL && i < 2 * SY_N_HF_ARCHS; i++) {
        const sy__hf_name *name = sy__hf_arch_at((sy_hf_arch)(i / 2))->moe_names[i % 2];
        for (; name != NULL && name->name != NULL; name++) {
            if (is_expert(name->slot) && matches(name->name, text)) {
                *known = true;
                return (sy_hf_form)(i % 2);
            }
        }
    }
    return SY_HF_PER_EXPERT;
}

bool sy_hf_is_ignored(const char *their_name, const sy_model_config *model)
{
    static const char buffer[] = "rotary_emb.inv_freq";
    size_t n = strlen(their_name), m = sizeof buffer - 1;
    int32_t layer = 0, used = 0;
    if (model->kv_lora_rank > 0 && sscanf(their_name, "model.layers.%d.%n", &layer, &used) == 1 &&
        used > 0 && layer >= sy_model_blocks(model)) {
        return true;
    }
    return (n >= m && strcmp(their_name + n - m, buffer) == 0) ||
           (model->tie_embeddings && strcmp(their_name, "lm_head.weight") == 0);
}
