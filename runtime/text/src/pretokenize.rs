//! Pre-tokenizers: how text is cut into words before byte-pair merges, by the name in `tokenizer.ggml.pre`.
//!
//! Each is the pre-tokenizer of the models' published `tokenizer.json`, put together from the `tokenizers`
//! crate.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, SplitDelimiterBehavior,
};

use crate::error::{Result, TextError};

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const KIMI_K2: &str = concat!(
    r"\p{Han}+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Latin, Greek, Cyrillic, Armenian, Georgian and Cherokee letters, most of them.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1F7D}",
    "ᾀ-ᾴᾶ-ᾼ\u{1FBE}ῂ-ῄῆ-ῌῐ-\u{1FD3}ῖ-\u{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮ",
    "ⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}",
    "\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}",
    "]+"
);
/// Marks of ASCII, and the same in full width.
const DEEPSEEK_MARKS: &str = concat!(r"\s?[!-/:-~！-／：-～‘-‟", "\u{3000}-。]+");
const DEEPSEEK_IDEOGRAPHS: &str = "[一-龥ࠀ-一가-\u{D7FF}]+";

/// A family of pre-tokenizers.
struct Family {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Text is brought to Unicode normalisation form C first.
    nfc: bool,
    /// A word that is a token is that token, whatever the merges say.
    ignore_merges: bool,
    /// A beginning-of-text token is put first unless the file says otherwise.
    add_bos: bool,
    /// The cuts, in order.
    cuts: &'static [Cut],
}

/// One way to cut.
enum Cut {
    /// Matches become words, and so does what is between them.
    Regex(&'static str),
    /// Every digit is a word.
    Digits,
    /// The words of GPT-2.
    Gpt2,
}

const FAMILIES: &[Family] = &[
    Family {
        names: &["gpt-2", "gpt2", "default", "phi-2"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Gpt2],
    },
    Family {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        nfc: true,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Regex(QWEN2)],
    },
    Family {
        names: &["qwen35"],
        nfc: true,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Regex(QWEN35)],
    },
    Family {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        nfc: false,
        ignore_merges: true,
        add_bos: true,
        cuts: &[Cut::Regex(LLAMA3)],
    },
    Family {
        names: &["glm4", "chatglm-bpe", "smaug-bpe", "dbrx"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Regex(LLAMA3)],
    },
    Family {
        names: &["tekken"],
        nfc: false,
        ignore_merges: true,
        add_bos: true,
        cuts: &[Cut::Regex(TEKKEN)],
    },
    Family {
        names: &["smollm", "starcoder", "refact", "minerva-7b"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Digits, Cut::Gpt2],
    },
    Family {
        names: &["gpt-4o"],
        nfc: false,
        ignore_merges: true,
        add_bos: false,
        cuts: &[Cut::Regex(GPT4O)],
    },
    Family {
        names: &["kimi-k2"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Regex(KIMI_K2)],
    },
    Family {
        names: &["deepseek-llm"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[
            Cut::Regex(r"[\r\n]"),
            Cut::Regex(DEEPSEEK_LETTERS),
            Cut::Regex(DEEPSEEK_MARKS),
            Cut::Regex(r"\s+$"),
            Cut::Regex(DEEPSEEK_IDEOGRAPHS),
            Cut::Digits,
        ],
    },
    Family {
        names: &["deepseek-coder"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[
            Cut::Regex(r"[\r\n]"),
            Cut::Regex(r"\s?\p{L}+"),
            Cut::Regex(r"\s?\p{P}+"),
            Cut::Regex(DEEPSEEK_IDEOGRAPHS),
            Cut::Digits,
        ],
    },
    Family {
        names: &["deepseek-v3"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
        cuts: &[Cut::Regex(r"\p{N}{1,3}"), Cut::Regex("[一-龥\u{3040}-ゟ゠-ヿ]+"), Cut::Regex(DEEPSEEK3)],
    },
];

/// A step of a pre-tokenizer as a `tokenizer.json` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Matches become words; line breaks are escaped.
    Regex(String),
    /// Every digit is a word.
    Digits,
    /// The words of GPT-2, in the byte-level alphabet.
    Gpt2,
    /// Into the byte-level alphabet.
    Bytes,
}

/// The name of the family that cuts in exactly these steps.
pub(crate) fn name_of(steps: &[Step]) -> Option<&'static str> {
    let same = |family: &&Family| {
        let own = family.cuts.iter().map(|cut| match cut {
            Cut::Regex(regex) => Step::Regex((*regex).to_owned()),
            Cut::Digits => Step::Digits,
            Cut::Gpt2 => Step::Gpt2,
        });
        let gpt2 = family.cuts.iter().any(|cut| matches!(cut, Cut::Gpt2));
        let bytes = (!gpt2).then_some(Step::Bytes);
        own.chain(bytes).eq(steps.iter().cloned())
    };
    FAMILIES.iter().find(same).map(|family| family.names[0])
}

/// The names of all families, for messages.
pub(crate) fn all_names() -> String {
    let all: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
    all.join(", ")
}

/// The pre-tokenizer of one vocabulary.
pub(crate) struct Words {
    /// A word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// A beginning-of-text token is put first unless the file says otherwise.
    pub add_bos: bool,
    /// Text is brought to Unicode normalisation form C first.
    pub nfc: bool,
    steps: Vec<PreTokenizerWrapper>,
}

impl Words {
    /// The pre-tokenizer with this value of `tokenizer.ggml.pre`.
    pub fn named(name: &str) -> Result<Self> {
        let family = FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(|| {
            TextError::PreTokenizer { found: name.chars().take(64).collect(), supported: all_names() }
        })?;
        let mut steps = Vec::new();
        let mut gpt2 = false;
        for cut in family.cuts {
            match cut {
                Cut::Regex(regex) => {
                    let pattern = SplitPattern::Regex((*regex).to_owned());
                    let split =
                        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(library)?;
                    steps.push(split.into());
                }
                Cut::Digits => steps.push(Digits::new(true).into()),
                Cut::Gpt2 => gpt2 = true,
            }
        }
        steps.push(ByteLevel::new(false, false, gpt2).into());
        Ok(Self { ignore_merges: family.ignore_merges, add_bos: family.add_bos, nfc: family.nfc, steps })
    }

    /// Calls `word` with each word of `text`, in the byte-level alphabet.
    pub fn each(&self, text: &str, mut word: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut normalized = NormalizedString::from(text);
        if self.nfc {
            NFC.normalize(&mut normalized).map_err(library)?;
        }
        let mut words = PreTokenizedString::from(normalized);
        for step in &self.steps {
            step.pre_tokenize(&mut words).map_err(library)?;
        }
        for (text, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            word(text)?;
        }
        Ok(())
    }
}

/// An error of the tokenizer library as ours.
pub(crate) fn library(error: tokenizers::Error) -> TextError {
    TextError::Encode(error.to_string())
}

/// Where to cut `text` so that the two parts, encoded apart, give what the whole gives: the end of the first
/// part, at most about `soft` bytes from the start, or a hard cut at `hard` bytes in a text with no such
/// place.
///
/// Safe places, for every family above: before a space between a Latin letter or digit and a Latin letter,
/// and after a line break that stands alone between a visible ASCII character and a Latin letter or digit.
pub(crate) fn chunk_end(text: &str, soft: usize, hard: usize) -> usize {
    if text.len() <= soft {
        return text.len();
    }
    let bytes = text.as_bytes();
    let mut at = soft.max(2);
    while at + 1 < bytes.len() && at < hard {
        let (before, here, after) = (bytes[at - 1], bytes[at], bytes[at + 1]);
        if here == b' ' && before.is_ascii_alphanumeric() && after.is_ascii_alphabetic() {
            return at;
        }
        if before == b'\n' && bytes[at - 2].is_ascii_graphic() && here.is_ascii_alphanumeric() {
            return at;
        }
        at += 1;
    }
    if text.len() <= hard {
        return text.len();
    }
    (hard - 3..=hard).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}
