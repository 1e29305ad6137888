#include "model/schema_internal.h"

#include <string.h>

/*
 * Formats as regular expressions of the whole string, from the documents that JSON Schema Validation, section
 * 7.3, names. Where a format has rare spellings that readers disagree about, the expression leaves them out:
 * it says what may be written, and need not be all that may be read. Left out: leap seconds, lower-case t and
 * z, quoted local parts and address literals in mail addresses, two hyphens in a row and more than 250
 * characters in host names, zones in IPv6 addresses, the year 0.
 *
 * A format that the draft does not name is an annotation, as it says: "int32", "password". One that it names
 * and that is not here is refused.
 */

#define YEAR    "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
#define LEAP    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DAY28   "(?:0[1-9]|1[0-9]|2[0-8])"
#define DAYS30  "(?:0[13-9]|1[0-2])-(?:29|30)"
#define DAYS31  "(?:0[13578]|1[02])-31"
#define DATE    "(?:" YEAR "-(?:(?:0[1-9]|1[0-2])-" DAY28 "|" DAYS30 "|" DAYS31 ")|" LEAP "-02-29)"
#define MINUTES "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
#define TIME    MINUTES ":[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-]" MINUTES ")"

/* RFC 3339, appendix A. */
#define COUNT         "[0-9]{1,9}"
#define DURATION_TIME "T(?:" COUNT "H(?:" COUNT "M(?:" COUNT "S)?)?|" COUNT "M(?:" COUNT "S)?|" COUNT "S)"
#define DURATION_DATE "(?:" COUNT "D|" COUNT "M(?:" COUNT "D)?|" COUNT "Y(?:" COUNT "M(?:" COUNT "D)?)?)"
#define DURATION      "P(?:" COUNT "W|" DURATION_DATE "(?:" DURATION_TIME ")?|" DURATION_TIME ")"

#define HEX  "[0-9a-fA-F]"
#define UUID HEX "{8}-" HEX "{4}-" HEX "{4}-" HEX "{4}-" HEX "{12}"

#define OCTET "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define IPV4  OCTET "(?:\\." OCTET "){3}"
#define H16   HEX "{1,4}"
#define IPV6                                                                                                 \
    "(?:(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|(?:" H16 ":){1,5}(?::" H16       \
    "){1,2}|(?:" H16 ":){1,4}(?::" H16 "){1,3}|(?:" H16 ":){1,3}(?::" H16 "){1,4}|(?:" H16 ":){1,2}(?::" H16 \
    "){1,5}|" H16 ":(?::" H16 "){1,6}|:(?::" H16 "){1,7}|::|(?:" H16 ":){6}" IPV4 "|::(?:" H16               \
    ":){0,5}" IPV4 "|(?:" H16 ":){1,3}:(?:" H16 ":){0,2}" IPV4 ")"

/* RFC 1123; few long labels or many short ones. */
#define ALNUM    "[a-zA-Z0-9]"
#define LABEL61  ALNUM "(?:-?" ALNUM "){0,30}"
#define LABEL29  ALNUM "(?:-?" ALNUM "){0,14}"
#define HOSTNAME "(?:" LABEL61 "(?:\\." LABEL61 "){0,3}|" LABEL29 "(?:\\." LABEL29 "){0,7})"
#define ATEXT    "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]"
#define EMAIL    ATEXT "(?:\\.?" ATEXT "){0,31}@" HOSTNAME

/* RFC 3986. */
#define ESCAPED       "%" HEX "{2}"
#define NAME_CHAR     "(?:[A-Za-z0-9._~!$&'()*+,;=-]|" ESCAPED ")"
#define PCHAR         "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|" ESCAPED ")"
#define TAIL          "(?:\\?(?:[/?]|" PCHAR ")*)?(?:#(?:[/?]|" PCHAR ")*)?"
#define USER          "(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|" ESCAPED ")*@)?"
#define NETWORK       "//" USER NAME_CHAR "+(?::[0-9]{1,5})?(?:/" PCHAR "*)*"
#define ABSOLUTE      "/(?:" PCHAR "+(?:/" PCHAR "*)*)?"
#define ROOTLESS      PCHAR "+(?:/" PCHAR "*)*"
#define NOSCHEME      "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|" ESCAPED ")+(?:/" PCHAR "*)*"
#define SCHEME        "[a-zA-Z][a-zA-Z0-9+.-]{0,30}:"
#define URI           SCHEME "(?:" NETWORK "|" ABSOLUTE "|" ROOTLESS ")" TAIL
#define URI_REFERENCE "(?:" URI "|(?:" NETWORK "|" ABSOLUTE "|" NOSCHEME ")?" TAIL ")"

#define POINTER "(?:/(?:[^~/]|~[01])*)*"

const char *schema_format_pattern(const char *name, bool *refused)
{
    static const struct {
        const char *name, *pattern;
    } formats[] = {
        {"date", DATE},
        {"time", TIME},
        {"date-time", DATE "T" TIME},
        {"duration", DURATION},
        {"uuid", UUID},
        {"ipv4", IPV4},
        {"ipv6", IPV6},
        {"hostname", HOSTNAME},
        {"email", EMAIL},
        {"uri", URI},
        {"uri-reference", URI_REFERENCE},
        {"json-pointer", POINTER},
        {"relative-json-pointer", "(?:0|[1-9][0-9]{0,8})(?:#|" POINTER ")"},
        {"idn-email", NULL},
        {"idn-hostname", NULL},
        {"iri", NULL},
        {"iri-reference", NULL},
        {"uri-template", NULL},
        {"regex", NULL},
    };
    *refused = false;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(name, formats[i].name) != 0) continue;
        *refused = !formats[i].pattern;
        return formats[i].pattern;
    }
    return NULL;
}
