#ifndef MODEL_CALIBRATION_TEXT_H
#define MODEL_CALIBRATION_TEXT_H

/*
 * The text that calibration uses when it is given none: model/calibration_text.txt, prose, dialogue, code,
 * mathematics, tables, letters and a dozen languages in short pieces, so that any 2,048 tokens are a mixture.
 * UTF-8, written for this purpose. It is at least CALIBRATE_SEQUENCES * CALIBRATE_SEQUENCE_TOKENS tokens for
 * vocabularies of up to 150,000 entries; for larger ones the last sequence may fall out.
 */
extern const char calibration_text[];     /* the first byte; no NUL follows the last */
extern const char calibration_text_end[]; /* one past the last */

#endif
