/* Is a page HTML that closes what it opens? */
#ifndef SY_TESTS_SUPPORT_WELL_FORMED_H
#define SY_TESTS_SUPPORT_WELL_FORMED_H

#include <stdbool.h>

/* Every tag closed in its order, every attribute quoted, no bare < or &: a reader of its own,
   knowing nothing of the writer. Not collective. */
bool html_is_well_formed(const char *page);

#endif
