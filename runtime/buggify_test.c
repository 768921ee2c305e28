/* SPDX-License-Identifier: Apache-2.0
 *
 * buggify_test.c - a site is false unless a simulated run has switched it on, and the seed decides
 * which.
 */
#include <postern/buggify.h>

#include "runtime/env/env_sim.h"

#include <criterion/criterion.h>

/* How often the site fires in n visits. */
static unsigned visits_that_fire(unsigned n) {
    unsigned fired = 0;
    for (unsigned i = 0; i < n; i++)
        fired += PTN_BUGGIFY("test.site");
    return fired;
}

Test(buggify, nothing_fires_outside_a_simulation) {
    cr_expect_eq(visits_that_fire(1000), 0);
    cr_expect_not(PTN_BUGGIFY_CRASH("test.crash"));
    cr_expect_not(PTN_BUGGIFY_STALL("test.stall"));
}

#ifdef PTN_WITH_BUGGIFY

static unsigned simulated(uint64_t seed, uint32_t share_ppm) {
    ptn_sim_opts o = {.seed = seed};
    ptn_sim_faults_none(&o.faults);
    o.faults.buggify_ppm = share_ppm;
    ptn_env *e = ptn_env_sim_new(&o);
    cr_assert_not_null(e);
    unsigned fired = visits_that_fire(1000);
    e->ops->free(e);
    cr_expect_eq(visits_that_fire(1000), 0, "the environment is gone and sites still fire");
    return fired;
}

Test(buggify, an_enabled_site_fires_one_time_in_four) {
    unsigned fired = simulated(1, 1000000);
    cr_expect(fired > 200 && fired < 300, "%u of 1000", fired);
    cr_expect_eq(fired, simulated(1, 1000000), "the same seed, another course");
    cr_expect_eq(simulated(1, 0), 0);
}

Test(buggify, the_seed_decides_which_sites_are_enabled) {
    unsigned enabled = 0;
    for (uint64_t seed = 0; seed < 400; seed++)
        enabled += simulated(seed, 250000) > 0;
    cr_expect(enabled > 60 && enabled < 140, "in %u of 400 runs", enabled);
}

Test(buggify, crashes_are_spaced) {
    ptn_sim_opts o = {.seed = 3};
    ptn_sim_faults_none(&o.faults);
    o.faults.buggify_ppm = 1000000;
    ptn_env *e = ptn_env_sim_new(&o);
    unsigned crashes = 0;
    for (unsigned i = 0; i < 100000; i++)
        crashes += PTN_BUGGIFY_CRASH("test.crash"); /* no time passes */
    cr_expect_eq(crashes, 1);
    e->ops->free(e);
}

#endif
