/* BASE: in training the routed tokens of a micro-batch are shared out so that every expert gets
   equally many (they differ by one where that does not divide) and the sum of their logits is the
   largest possible (moe/assignment.h); the sharing out carries no gradient. Evaluation takes the
   largest logit. The weight is sigmoid(z). Public code mixes sigmoid(z) f(x) + (1 - sigmoid(z)) x
   where its f has a residual of its own: that is x + sigmoid(z) MLP(x), the residual our block
   adds. Experts begin with outputs of zero. Lewis et al. 2021 (BASE, arXiv 2103.16716) 3. */
#include "moe/assignment.h"
#include "moe/routers_impl.h"

static void layout(const sy_moe_config *config, sy_router_layout *out)
{
    (void)config;
    out->zero_experts = true;
}

static sy__form form_of(const sy_host_route *r)
{
    return (sy__form){true, false, r->config->routed_scale};
}

/* Tokens that are not routed are left out: rows of the others move together, into note. */
static void share_out(sy_host_route *r)
{
    int64_t n = 0;
    for (int64_t t = 0; t < r->T; t++) {
        for (int32_t e = 0; e < r->E && sy_host_routed(r, t); e++) {
            r->note[n * r->E + e] = r->z[t * r->E + e];
        }
        n += sy_host_routed(r, t);
    }
    sy_assignment_solve(r->note, n, r->E, r->work, r->expert);
    for (int64_t t = r->T - 1; t >= 0; t--) { /* and back to their places, the last one first */
        r->expert[t] = sy_host_routed(r, t) ? r->expert[--n] : -1;
    }
}

static void choose(sy_host_route *r)
{
    const sy__form form = form_of(r);
    if (r->training) {
        share_out(r);
    } else {
        sy__choose_topk(r);
    }
    sy__weigh_all(r, &form);
}

static void backward(sy_host_route *r)
{
    const sy__form form = form_of(r);
    sy__weigh_all_backward(r, &form);
}

static int64_t work_bytes(const sy_host_route *r)
{
    return sy_assignment_bytes(r->T, r->E);
}

const sy_router_ops sy__router_base = {
    .name = "base",
    .source = "Lewis et al. 2021 (BASE, arXiv 2103.16716) 3",
    .traits = SY_ROUTER_NO_AUX | SY_ROUTER_NO_Z | SY_ROUTER_NO_CAPACITY | SY_ROUTER_FIXED_WEIGHTS |
              SY_ROUTER_MICRO_BATCH,
    .only_top_k = 1,
    .host = &(const sy_host_router_ops){.forward_cost = {89.1, 5.4},
                                        .backward_cost = {10.5, 0},
                                        .layout = layout,
                                        .work_bytes = work_bytes,
                                        .choose = choose,
                                        .backward = backward}};
