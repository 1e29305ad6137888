#ifndef SERVER_PLOT_H
#define SERVER_PLOT_H

#include "config/buf.h"

/*
 * A chart as SVG: rows of bars, one panel a quantity, side by side, so that what the same row is in all of
 * them stands on one line. Every bar has its number beside it; panels have scales of their own, from zero.
 */
enum { PLOT_MAX_PANELS = 6, PLOT_MAX_ROWS = 32 };

struct plot_panel {
    const char *title;
    const char *note;     /* under the title: a unit, what is better; or "" */
    const double *values; /* [n_rows]; negative ones are drawn as none */
    int digits;           /* behind the point */
    int ratio_to;         /* the row that "3.4x" in parentheses is to; -1: no ratios */
};

struct plot {
    const char *title, *subtitle;
    const char *const *rows; /* [n_rows] names */
    int n_rows;
    const struct plot_panel *panels;
    int n_panels;
};

void plot_svg(const struct plot *plot, struct buf *out);

#endif
