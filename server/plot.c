#include "server/plot.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    MARGIN = 24,
    LABEL_WIDTH = 90,
    PANEL_WIDTH = 266,
    NUMBER_WIDTH = 128, /* beside the longest bar */
    ROW_HEIGHT = 34,
    BAR_HEIGHT = 20,
    HEAD_HEIGHT = 116, /* title, subtitle, panels' titles and notes */
    FOOT_HEIGHT = 20
};

static void put_text(struct buf *out, int x, int y, int size, const char *colour, const char *anchor,
                     const char *weight, const char *text)
{
    buf_printf(out,
               "<text x=\"%d\" y=\"%d\" font-size=\"%d\" fill=\"%s\" text-anchor=\"%s\" font-weight=\"%s\">",
               x, y, size, colour, anchor, weight);
    for (; *text != '\0'; text++) {
        if (*text == '<')
            buf_text(out, "&lt;");
        else if (*text == '&')
            buf_text(out, "&amp;");
        else
            buf_append(out, text, 1);
    }
    buf_text(out, "</text>\n");
}

static double most_of(const double *values, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++)
        if (values[i] > most) most = values[i];
    return most;
}

static void put_bar(struct buf *out, const struct plot *plot, const struct plot_panel *panel, int row,
                    int left)
{
    static const char *const colours[] = {"#8c96a3", "#2f6db3", "#d07a2d", "#3b8f5a", "#8a5aa8", "#b2434f"};
    double value = panel->values[row], most = most_of(panel->values, plot->n_rows);
    int y = HEAD_HEIGHT + row * ROW_HEIGHT;
    double width = most > 0 && value > 0 ? value / most * (PANEL_WIDTH - NUMBER_WIDTH) : 0;
    char number[64];
    if (value < 0) return;
    int n = snprintf(number, sizeof number, "%.*f", panel->digits, value);
    if (panel->ratio_to >= 0 && panel->values[panel->ratio_to] > 0)
        snprintf(number + n, sizeof number - (size_t)n, " (%.2fx)", value / panel->values[panel->ratio_to]);
    buf_printf(out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", left, y, width,
               BAR_HEIGHT, colours[(size_t)row % (sizeof colours / sizeof *colours)]);
    put_text(out, left + (int)width + 6, y + BAR_HEIGHT - 5, 13, "#222", "start", "normal", number);
}

static void put_panel(struct buf *out, const struct plot *plot, const struct plot_panel *panel, int left)
{
    int bottom = HEAD_HEIGHT + plot->n_rows * ROW_HEIGHT - (ROW_HEIGHT - BAR_HEIGHT) + 6;
    put_text(out, left, HEAD_HEIGHT - 34, 14, "#222", "start", "bold", panel->title);
    put_text(out, left, HEAD_HEIGHT - 16, 11, "#666", "start", "normal", panel->note);
    buf_printf(out, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"#999\"/>\n", left,
               HEAD_HEIGHT - 6, left, bottom);
    for (int row = 0; row < plot->n_rows; row++) put_bar(out, plot, panel, row, left);
}

void plot_svg(const struct plot *plot, struct buf *out)
{
    assert(plot->n_rows >= 1 && plot->n_rows <= PLOT_MAX_ROWS && plot->n_panels >= 1 &&
           plot->n_panels <= PLOT_MAX_PANELS);
    int width = 2 * MARGIN + LABEL_WIDTH + plot->n_panels * PANEL_WIDTH;
    int height = HEAD_HEIGHT + plot->n_rows * ROW_HEIGHT + FOOT_HEIGHT;
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
               "font-family=\"Helvetica, Arial, sans-serif\">\n",
               width, height, width, height);
    buf_printf(out, "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, height);
    put_text(out, MARGIN, 30, 18, "#111", "start", "bold", plot->title);
    put_text(out, MARGIN, 52, 12, "#555", "start", "normal", plot->subtitle);
    for (int row = 0; row < plot->n_rows; row++)
        put_text(out, MARGIN + LABEL_WIDTH - 12, HEAD_HEIGHT + row * ROW_HEIGHT + BAR_HEIGHT - 5, 14, "#222",
                 "end", "normal", plot->rows[row]);
    for (int i = 0; i < plot->n_panels; i++)
        put_panel(out, plot, &plot->panels[i], MARGIN + LABEL_WIDTH + i * PANEL_WIDTH);
    buf_text(out, "</svg>\n");
}
