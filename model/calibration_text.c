#include "model/calibration_text.h"

/* C17 has no #embed; the assembler's .incbin is the same for gcc and clang. CMakeLists.txt gives the path. */
__asm__(".pushsection .rodata\n"
        ".globl calibration_text, calibration_text_end\n"
        "calibration_text:\n"
        ".incbin \"" CALIBRATION_TEXT_PATH "\"\n"
        "calibration_text_end:\n"
        ".byte 0\n"
        ".popsection\n");
