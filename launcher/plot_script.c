/* The text of a script: canvas, panels, legends, and strings that gnuplot does not interpret. */
#include <stdarg.h>
#include <string.h>

#include "core/util.h"
#include "launcher/plot.h"

#define TITLE_HEIGHT 34
#define PNG_SCALE    2 /* pixels of a PNG for one of the canvas: sharp on today's screens */

void wtn_script_put(wtn_script_t *script, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vfprintf(script->file, format, args); /* memory; ferror is asked at the end */
    va_end(args);
}

/* ---- strings ---- */

/* Bytes of the UTF-8 character at `text` if it may stand in a picture, an XML file among them; else
 * 0: a control character, half a surrogate pair, a code without a character, or no UTF-8. */
static size_t character_bytes(const unsigned char *text)
{
    size_t   count = text[0] < 0x80 ? 1 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    uint32_t code  = count == 1 ? text[0] : text[0] & (0xffu >> (count + 1));

    if (text[0] < 0x20 || text[0] == 0x7f || (text[0] >= 0x80 && text[0] < 0xc2) ||
        text[0] > 0xf4) {
        return 0;
    }
    for (size_t i = 1; i < count; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (text[i] & 0x3fu);
    }
    if ((count == 2 && code < 0xa0) || (count == 3 && code < 0x800) ||
        (count == 4 && code < 0x10000) || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ||
        (code & 0xfffe) == 0xfffe || (code >= 0x202a && code <= 0x202e) ||
        (code >= 0x2066 && code <= 0x2069) || code == 0x2028 || code == 0x2029) {
        return 0;
    }
    return count;
}

static size_t step_over(const char *text)
{
    size_t bytes = character_bytes((const unsigned char *)text);

    return bytes > 0 ? bytes : 1;
}

void wtn_script_cut(const char *text, size_t count_max, char *out, size_t bytes)
{
    size_t count = 0, head = SIZE_MAX, tail = SIZE_MAX, index = 0, used = 0;

    for (const char *at = text; *at != '\0'; at += step_over(at)) {
        count++;
    }
    if (count > count_max) {
        head = count_max / 2;
        tail = count - (count_max - head - 3);
    }
    for (const char *at = text; *at != '\0' && used + 8 <= bytes; at += step_over(at), index++) {
        size_t length = character_bytes((const unsigned char *)at);

        if (index >= head && index < tail) {
            used += (size_t)snprintf(out + used, bytes - used, "%s", index == head ? "..." : "");
        } else {
            used += (size_t)snprintf(out + used, bytes - used, "%.*s", length > 0 ? (int)length : 1,
                                     length > 0 ? at : "?");
        }
    }
    out[used] = '\0';
}

/* Within single quotes gnuplot takes everything as it is but the quote. One at the begin of a
 * string ends it there even if it is doubled, as its manual wants it, so it becomes an apostrophe.
 * Terminals are told `noenhanced`. */
void wtn_script_text(wtn_script_t *script, const char *text)
{
    char short_text[WTN_SCRIPT_LABELS * 4 + 8];

    wtn_script_cut(text, WTN_SCRIPT_LABELS, short_text, sizeof(short_text));
    (void)fputc('\'', script->file);
    for (const char *at = short_text; *at != '\0'; at++) {
        if (*at == '\'') {
            (void)fputs("\xe2\x80\x99", script->file);
        } else {
            (void)fputc(*at, script->file);
        }
    }
    (void)fputc('\'', script->file);
}

/* ---- canvas and panels ---- */

void wtn_script_font(wtn_script_t *script, double pixels)
{
    /* points of a PNG are 4/3 pixels */
    wtn_script_put(script, " font ',%g'",
                   script->format == WTN_PLOT_PNG ? pixels * PNG_SCALE * 0.75 : pixels);
}

void wtn_script_begin(wtn_script_t *script, double width, double height, const char *title)
{
    script->width  = width;
    script->top    = title != NULL ? TITLE_HEIGHT : 0;
    script->height = height + script->top;
    if (script->format == WTN_PLOT_SCRIPT) {
        wtn_script_put(script, "# gnuplot -d FILE.gp >FILE.svg\n");
    }
    wtn_script_put(script, "set encoding utf8\n");
    if (script->format == WTN_PLOT_PNG) {
        wtn_script_put(script,
                       "set terminal pngcairo noenhanced size %.0f,%.0f background rgb '#ffffff' "
                       "font 'sans,%g' linewidth %d pointscale %d\n",
                       width * PNG_SCALE, script->height * PNG_SCALE, 9.75 * PNG_SCALE, PNG_SCALE,
                       PNG_SCALE);
    } else {
        wtn_script_put(script,
                       "set terminal svg noenhanced size %.0f,%.0f background rgb '#ffffff' "
                       "font 'sans-serif,13'\n",
                       width, script->height);
    }
    wtn_script_put(script, "set multiplot");
    if (title != NULL) {
        wtn_script_put(script, " title ");
        wtn_script_text(script, title);
        wtn_script_put(script, " noenhanced");
        wtn_script_font(script, 16);
    }
    wtn_script_put(script, "\n");
}

void wtn_script_panel(wtn_script_t *script, const wtn_panel_t *panel, const char *title)
{
    wtn_script_put(script,
                   "set lmargin at screen %.6f\nset rmargin at screen %.6f\n"
                   "set tmargin at screen %.6f\nset bmargin at screen %.6f\n",
                   panel->left / script->width, (panel->left + panel->width) / script->width,
                   1 - panel->top / script->height,
                   1 - (panel->top + panel->height) / script->height);
    wtn_script_put(script, "unset logscale\nunset key\nunset label\nunset colorbox\n"
                           "unset xlabel\nset autoscale\n"
                           "set border 3 linecolor rgb '#444444'\n"
                           "set grid linecolor rgb '#dddddd' linetype 1 linewidth 0.5\n");
    for (int axis = 0; axis < 3; axis++) {
        static const char *const names[] = {"x", "y", "cb"};

        wtn_script_put(script, "set %stics out nomirror norotate scale 0.6,0.3", names[axis]);
        wtn_script_font(script, 11.5);
        wtn_script_put(script, "\n");
    }
    wtn_script_put(script, "set title ");
    wtn_script_text(script, title);
    wtn_script_put(script, " offset 0,-0.2\n");
}

void wtn_script_x_label(wtn_script_t *script, const char *text)
{
    wtn_script_put(script, "set xlabel ");
    wtn_script_text(script, text);
    wtn_script_put(script, "\n");
}

/* gnuplot places it by the widths that it thinks tick labels have, and loses it beyond the edge. */
void wtn_script_y_label(wtn_script_t *script, const wtn_panel_t *panel, const char *text)
{
    wtn_script_put(script, "set label ");
    wtn_script_text(script, text);
    wtn_script_put(script, " at screen %.6f,%.6f center rotate by 90\n",
                   (panel->left - WTN_SCRIPT_LEFT + 14) / script->width,
                   1 - (panel->top + panel->height / 2) / script->height);
}

static double legend_top(const wtn_script_t *script, const wtn_panel_t *panel, double rows)
{
    double at = panel->top + panel->height + WTN_SCRIPT_BELOW + rows * WTN_SCRIPT_ROW;

    return 1 - at / script->height;
}

void wtn_script_legend(wtn_script_t *script, const wtn_panel_t *panel, int columns, int rows)
{
    wtn_script_put(script,
                   "set key at screen %.6f,%.6f top left horizontal maxcols %d Left reverse "
                   "samplen 2 spacing %g noautotitle\n",
                   (panel->left - 30) / script->width, legend_top(script, panel, rows), columns,
                   script->format == WTN_PLOT_PNG ? 1.25 : 1.15);
}

void wtn_script_note(wtn_script_t *script, const wtn_panel_t *panel, int row, const char *text)
{
    wtn_script_put(script, "set label ");
    wtn_script_text(script, text);
    wtn_script_put(script, " at screen %.6f,%.6f left\n", (panel->left - 20) / script->width,
                   legend_top(script, panel, row + 0.5));
}

void wtn_script_end(wtn_script_t *script)
{
    wtn_script_put(script, "unset multiplot\n");
}

const char *wtn_script_colour(size_t index)
{
    /* Okabe and Ito's, without yellow, which is faint on white, and a wine red of Tol's. */
    static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                          "#e69f00", "#56b4e9", "#882255", "#000000"};

    return colours[index % WTN_COUNT_OF(colours)];
}

int wtn_script_point(size_t index)
{
    static const int points[] = {7, 5, 9, 13, 11, 15};

    return points[index % WTN_COUNT_OF(points)];
}
