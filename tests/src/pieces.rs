//! A vocabulary of SentencePiece as Llama 2, Mistral and Mixtral have theirs, made small.

use membrane_formats::{Array, Metadata, StrArray, Value};

use crate::tiny::VOCABULARY;

/// Pieces of more than one character, the best first. `\u{2581}` is a space.
const PIECES: &str = "▁t ▁a he ▁o es ▁i ▁the at er nd re ▁w ▁s ts ▁c en in ▁of ▁and or ▁▁▁▁ ▁▁ ▁f ▁p on hat ▁b ed ▁` ro ▁m it ▁is ▁n \
    rs de ▁l an ▁that as ▁in ▁on ion il ho ch ar ▁e un me ▁to mp ▁it ol ▁re ver ▁co ▁g ▁an al ad ▁be ▁no ck ▁d ut \
    ▁wit ▁h run ▁are ug lo ent ▁what ▁for ay ce ▁one st ▁its ode ▁st ti se ing ▁with hi ak ra ex ▁pro ▁( ess ▁pl ken \
    ct ugin ile ▁k odel ▁lo ul ig ers ▁has ▁comp ri `, ▁not ▁as ▁al the ▁by ▁or ge el ach ▁token ▁so time ▁A ore \
    akes ▁th ▁model ▁ho ur ions hich here wn ud runtime pl ext est ▁which ▁se ▁sa ▁read ic ▁plugin ▁each ve its and \
    ▁ex ▁at ▁ag is ain ran qu ate ▁own lock ests The ▁fro ▁from ▁[ to olic us pe hose che ▁me ▁ke ▁ch ▁run ws mpl am \
    ▁them ▁polic ▁all ▁ro ▁r th iles ies ide for ation ▁tokens ▁ne ▁(` ▁W per le co ]( ▁where ▁over ▁do ▁con ▁can \
    ▁ans ▁answ ▁The raf ld ine ir ard ▁de old cor ), ▁ti rit ks fore cess ass ang all ap `: ▁wor ▁takes ▁same \
    ▁process ▁pass ▁host ▁file ▁che ▁before um ▁key ▁go ▁fi ▁block ▁u we ther nds jud are ache ▁was ▁their ▁res \
    ▁noth ▁nothing ▁loo ▁files ▁draf ▁check ▁S ugh te ory ne mory file ession ens ener atri ack /` ## ▁writ ▁those \
    ▁text ▁sh ▁say ▁runs ▁reads ▁plugins ▁once ▁memory ▁matri ▁ha ▁have ▁I rough ram ly ag ▁witho ▁without ▁stand \
    ▁log ▁exper ▁comput ▁behi ▁behind ▁answer ▁ver ▁qu ward uld ure ub tests plugin pt pro ors no id der cord ates \
    art ake ▁they ▁through ▁record ▁out ▁makes ▁again ▁v ▁he ps os ment ces ary ▁time ▁tens ▁policy ▁li ▁keys \
    ▁drafts ▁code ong mb li ern ents eng con ats ace ▁tool ▁policies ▁matrix ▁gran ▁form ▁blocks ▁bet ▁betwe \
    ▁between ▁- ves ubl und ter ted rst one oin judge ishe igh if ernel engine cri code ars `. `) ▁wo ▁sever \
    ▁several ▁rows ▁publ ▁order ▁nam ▁le ▁kno ▁into ▁goes ▁experts ▁compon ▁call ▁bo ▁any ▁agent ▁O ▁C very urn unct \
    sr src read ned mpler forward eside ast ask arg alu ail age";
/// A token with a meaning of its own, beside those of the beginning and the end of a text.
pub const TURN: &str = "<|turn|>";
/// A token that is found by its text in any text.
pub const USER_DEFINED: &str = "<tool>";

/// The chat template of Mixtral.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}\
    {% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}";

/// The vocabulary and a chat template as the metadata of a GGUF file has them, without `add_space_prefix`, as most files.
pub fn metadata() -> Metadata {
    let mut all: Vec<(String, f32, i32)> = ["<unk>", "<s>", "</s>"]
        .into_iter()
        .zip([2, 3, 3])
        .map(|(text, kind)| (text.to_owned(), 0.0, kind))
        .chain((0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), 0.0, 6)))
        .collect();
    let characters = (' '..='~').map(|character| if character == ' ' { '\u{2581}' } else { character });
    let pieces = PIECES.split(' ').map(str::to_owned).chain(characters.map(String::from));
    all.extend(pieces.enumerate().map(|(rank, piece)| (piece, -(rank as f32), 1)));
    all.extend([(TURN, 3), (USER_DEFINED, 4)].map(|(text, kind)| (text.to_owned(), 0.0, kind)));
    let unused = (all.len()..VOCABULARY).map(|id| (format!("[PAD{id}]"), 0.0, 5));
    all.extend(unused);
    let mut metadata = Metadata::default();
    let tokens: StrArray = all.iter().map(|token| &token.0).collect();
    let mut set = |key: &str, value: Value| metadata.set(&format!("tokenizer.{key}"), value);
    set("ggml.model", "llama".into());
    set("ggml.pre", "default".into());
    set("ggml.tokens", tokens.into());
    set("ggml.scores", Array::F32(all.iter().map(|token| token.1).collect()).into());
    set("ggml.token_type", Array::I32(all.iter().map(|token| token.2).collect()).into());
    set("ggml.bos_token_id", 1_u32.into());
    set("ggml.eos_token_id", 2_u32.into());
    set("ggml.unknown_token_id", 0_u32.into());
    set("chat_template", TEMPLATE.into());
    metadata
}
