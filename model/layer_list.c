#include "model/layer_list.h"

#include <stdlib.h>
#include <string.h>

/* N of "<word>N". 0 if it is not of that form. */
static int32_t after(const char *word, const char *text)
{
    char *end = NULL;
    const size_t n_word = strlen(word);
    if (strncmp(text, word, n_word) != 0) {
        return 0;
    }
    long n = strtol(text + n_word, &end, 10);
    return *end == '\0' && end != text + n_word && n >= 1 && n <= 1000 ? (int32_t)n : 0;
}

/* The number of a layer; -1 if the text is none. */
static int32_t layer_number(const char *text)
{
    bool digits = *text != '\0' && strspn(text, "0123456789") == strlen(text) && strlen(text) < 6;
    return digits ? (int32_t)strtol(text, NULL, 10) : -1;
}

sy_status sy_layer_list_check(const sy_str_list *list, const char *key, const sy_config *config)
{
    for (int32_t i = 0; i < list->n; i++) {
        const char *text = list->item[i];
        bool word =
            strcmp(text, "all") == 0 || after("every:", text) > 0 || after("from:", text) > 0;
        if (!(list->n == 1 && word) && layer_number(text) < 0) {
            return sy_config_error(config, key,
                                   "%s '%s' is not all, every:N, from:N or a list of layer numbers",
                                   key, text);
        }
    }
    return SY_OK;
}

sy_status sy_layer_list_fits(const sy_str_list *list, const char *key, int32_t n_layers,
                             const sy_config *config)
{
    for (int32_t i = 0; i < list->n; i++) {
        if (layer_number(list->item[i]) >= n_layers) {
            return sy_config_error(config, key, "%s: there is no layer %s, model.layers is %d", key,
                                   list->item[i], n_layers);
        }
    }
    return SY_OK;
}

bool sy_layer_list_has(const sy_str_list *list, int32_t layer)
{
    for (int32_t i = 0; i < list->n; i++) {
        const char *text = list->item[i];
        int32_t n = after("every:", text), first = after("from:", text);
        if (strcmp(text, "all") == 0 || (n > 0 && layer % n == n - 1) ||
            (first > 0 && layer >= first) || layer_number(text) == layer) {
            return true;
        }
    }
    return false;
}
