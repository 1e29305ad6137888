#include "server/tools_scan.h"

#include <assert.h>
#include <string.h>

enum state {
    OPEN,          /* the outer brace comes */
    FIRST_KEY,     /* a key or the object's end */
    KEY,           /* a key, behind a comma */
    COLON,         /* behind a key */
    VALUE,         /* a value */
    FIRST_ELEMENT, /* a value or the array's end */
    AFTER,         /* behind a value */
    STRING,
    ESCAPE, /* behind a backslash */
    HEX,
    LITERAL,
    MINUS, /* of a number: what has been read last */
    ZERO,
    INTEGER,
    POINT,
    FRACTION,
    EXPONENT,
    SIGN,
    POWER,
};

void tools_scan_init(struct tools_scan *scan)
{
    memset(scan, 0, sizeof *scan);
    scan->state = OPEN;
}

bool tools_scan_is(const struct tools_scan *scan, const char *word)
{
    return scan->length <= TOOLS_SCAN_MAX_TEXT && strcmp(scan->text, word) == 0;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static enum tools_scan_result go(struct tools_scan *scan, enum state state)
{
    scan->state = state;
    return TOOLS_SCAN_MORE;
}

/* What is open now: an array? */
static bool in_array(const struct tools_scan *scan)
{
    return scan->is_array >> (scan->depth - 1) & 1;
}

static enum tools_scan_result open(struct tools_scan *scan, bool array)
{
    if (scan->depth == TOOLS_SCAN_MAX_DEPTH) return TOOLS_SCAN_WRONG;
    uint64_t bit = UINT64_C(1) << scan->depth++;
    scan->is_array = array ? scan->is_array | bit : scan->is_array & ~bit;
    return go(scan, array ? FIRST_ELEMENT : FIRST_KEY);
}

static enum tools_scan_result close(struct tools_scan *scan)
{
    scan->state = AFTER;
    scan->depth--;
    return scan->depth == 0 ? TOOLS_SCAN_DONE : scan->depth == 1 ? TOOLS_SCAN_END : TOOLS_SCAN_MORE;
}

static void begin_text(struct tools_scan *scan)
{
    scan->length = 0;
    scan->text[0] = '\0';
}

static enum tools_scan_result begin_string(struct tools_scan *scan, bool key)
{
    scan->in_key = key;
    scan->state = STRING;
    if (key && scan->depth == 1) begin_text(scan);
    scan->replaces = !key && scan->depth == 1; /* the key is still wanted with this very byte */
    return TOOLS_SCAN_MORE;
}

static enum tools_scan_result begin_value(struct tools_scan *scan, char byte)
{
    static const char *const literals[] = {"true", "false", "null"};
    if (byte == '{' || byte == '[') return open(scan, byte == '[');
    if (byte == '"') return begin_string(scan, false);
    if (byte == '-') return go(scan, MINUS);
    if (byte == '0') return go(scan, ZERO);
    if (is_digit(byte)) return go(scan, INTEGER);
    for (int i = 0; i < 3; i++)
        if (byte == literals[i][0]) {
            scan->literal = literals[i] + 1;
            return go(scan, LITERAL);
        }
    return TOOLS_SCAN_WRONG;
}

/* A value; of the outer object's members it is told. */
static enum tools_scan_result read_value(struct tools_scan *scan, char byte)
{
    bool own = scan->depth == 1;
    enum tools_scan_result result = begin_value(scan, byte);
    return own && result == TOOLS_SCAN_MORE ? TOOLS_SCAN_VALUE : result;
}

static enum tools_scan_result read_after(struct tools_scan *scan, char byte)
{
    bool array = in_array(scan);
    if (byte == ',') return go(scan, array ? VALUE : KEY);
    return byte == (array ? ']' : '}') ? close(scan) : TOOLS_SCAN_WRONG;
}

/* Keys and values of the outer object are kept. */
static void keep(struct tools_scan *scan, char byte)
{
    if (scan->depth != 1) return;
    if (scan->length < TOOLS_SCAN_MAX_TEXT) {
        scan->text[scan->length] = byte;
        scan->text[scan->length + 1] = '\0';
    }
    if (scan->length <= TOOLS_SCAN_MAX_TEXT) scan->length++;
}

static enum tools_scan_result read_string(struct tools_scan *scan, char byte)
{
    if ((unsigned char)byte < 0x20) return TOOLS_SCAN_WRONG;
    if (scan->replaces) begin_text(scan);
    scan->replaces = false;
    if (byte == '"') {
        scan->state = scan->in_key ? COLON : AFTER;
        return !scan->in_key && scan->depth == 1 ? TOOLS_SCAN_END : TOOLS_SCAN_MORE;
    }
    keep(scan, byte);
    if (byte == '\\') scan->state = ESCAPE;
    return TOOLS_SCAN_MORE;
}

static enum tools_scan_result read_escape(struct tools_scan *scan, char byte)
{
    keep(scan, byte);
    if (byte == 'u') {
        scan->digits = 4;
        return go(scan, HEX);
    }
    return byte != '\0' && strchr("\"\\/bfnrt", byte) ? go(scan, STRING) : TOOLS_SCAN_WRONG;
}

static enum tools_scan_result read_hex(struct tools_scan *scan, char byte)
{
    keep(scan, byte);
    char lower = (char)(byte | 0x20);
    if (!is_digit(byte) && !(lower >= 'a' && lower <= 'f')) return TOOLS_SCAN_WRONG;
    return --scan->digits == 0 ? go(scan, STRING) : TOOLS_SCAN_MORE;
}

static enum tools_scan_result read_literal(struct tools_scan *scan, char byte)
{
    if (byte != *scan->literal) return TOOLS_SCAN_WRONG;
    return *++scan->literal == '\0' ? go(scan, AFTER) : TOOLS_SCAN_MORE;
}

/* A number ends with the byte behind it. */
static enum tools_scan_result read_number(struct tools_scan *scan, char byte)
{
    bool whole = scan->state == ZERO || scan->state == INTEGER;
    bool complete = whole || scan->state == FRACTION || scan->state == POWER;
    if (is_digit(byte)) switch (scan->state) {
        case MINUS:
            return go(scan, byte == '0' ? ZERO : INTEGER);
        case ZERO:
            return TOOLS_SCAN_WRONG;
        case INTEGER:
            return TOOLS_SCAN_MORE;
        case POINT:
        case FRACTION:
            return go(scan, FRACTION);
        default:
            return go(scan, POWER);
        }
    if (byte == '.' && whole) return go(scan, POINT);
    if ((byte == 'e' || byte == 'E') && (whole || scan->state == FRACTION)) return go(scan, EXPONENT);
    if ((byte == '+' || byte == '-') && scan->state == EXPONENT) return go(scan, SIGN);
    if (!complete) return TOOLS_SCAN_WRONG;
    scan->state = AFTER;
    return tools_scan_byte(scan, byte);
}

enum tools_scan_result tools_scan_byte(struct tools_scan *scan, char byte)
{
    enum state state = (enum state)scan->state;
    if (state < STRING && (byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r'))
        return state == OPEN ? TOOLS_SCAN_WRONG : TOOLS_SCAN_MORE;
    switch (state) {
    case OPEN:
        return byte == '{' ? open(scan, false) : TOOLS_SCAN_WRONG;
    case FIRST_KEY:
        if (byte == '}') return close(scan);
        return byte == '"' ? begin_string(scan, true) : TOOLS_SCAN_WRONG;
    case KEY:
        return byte == '"' ? begin_string(scan, true) : TOOLS_SCAN_WRONG;
    case COLON:
        return byte == ':' ? go(scan, VALUE) : TOOLS_SCAN_WRONG;
    case FIRST_ELEMENT:
        if (byte == ']') return close(scan);
        return read_value(scan, byte);
    case VALUE:
        return read_value(scan, byte);
    case AFTER:
        return read_after(scan, byte);
    case STRING:
        return read_string(scan, byte);
    case ESCAPE:
        return read_escape(scan, byte);
    case HEX:
        return read_hex(scan, byte);
    case LITERAL:
        return read_literal(scan, byte);
    default:
        return read_number(scan, byte);
    }
}
