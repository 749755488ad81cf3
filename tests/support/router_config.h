/* Configurations of routers, of one layer, from "moe.key=value" strings. */
#ifndef SY_TESTS_ROUTER_CONFIG_H
#define SY_TESTS_ROUTER_CONFIG_H

#include "model/model_config.h"
#include "moe/router.h"

/* model, moe and the routers' own. */
static inline const sy_config_section *const *router_sections(int32_t *n)
{
#define SECTION(name) &sy_router_section_##name,
    static const sy_config_section *const all[] = {&sy_model_section, &sy_moe_section,
                                                   SY_ROUTERS(SY_ROUTER_NO_SECTION, SECTION)};
    *n = sizeof all / sizeof all[0];
    return all;
}

/* "moe.key=value" strings, NULL behind them; one layer. */
static inline sy_status configure(const char *const *set, sy_config **out)
{
    static const char model[] = "model: {vocab_size: 8, hidden: 8, layers: 1, heads: 1, "
                                "ffn_hidden: 8, seq_len: 8}";
    int32_t n_set = 0, n = 0;
    const sy_config_section *const *all = router_sections(&n);
    sy_status st;
    while (set[n_set] != NULL) {
        n_set++;
    }
    st = sy_config_parse(all, n, model, sizeof model - 1, "test", set, n_set, out);
    return st == SY_OK ? sy_moe_config_resolve(*out, 1, 8) : st;
}

#define SET(...)                                                                                   \
    (const char *const[])                                                                          \
    {                                                                                              \
        "moe.experts=4", __VA_ARGS__, NULL                                                         \
    }

#endif
