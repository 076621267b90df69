//! The chat in the terminal.

use std::io::{BufRead, Read, Write, stderr, stdin};

use anyhow::Result;
use membrane_host::limits::MAX_MESSAGE_BYTES;

use crate::judged;
use crate::plugin_log;
use crate::printer;
use crate::report::printable;
use crate::run::Conversation;

/// Said when Ctrl-C is pressed while no answer is being made.
pub const AT_PROMPT: &str = "(Ctrl-D ends the chat)\n> ";

const HELP: &str = "\
/clear  forget the conversation
/help   this text
/exit   end (or Ctrl-D)
Ctrl-C stops an answer, not the program.";

/// Reads messages and prints answers until the input ends.
pub fn run(conversation: &mut Conversation) -> Result<()> {
    let system = conversation.messages.clone();
    eprintln!("A message and Enter; /help for commands.");
    loop {
        eprint!("> ");
        stderr().flush().unwrap_or_default();
        let mut line = Vec::new();
        match stdin().lock().take(MAX_MESSAGE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(0) => {
                eprintln!();
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        let Ok(line) = String::from_utf8(line) else {
            eprintln!("That line is not UTF-8 and was not sent.");
            continue;
        };
        match line.trim() {
            "" => {}
            "/exit" => return Ok(()),
            "/help" => eprintln!("{HELP}"),
            "/clear" => conversation.messages.clone_from(&system),
            text if text.starts_with('/') => eprintln!("{} is not a command\n{HELP}", printable(text)),
            text => {
                let answered = conversation.ask(text.to_owned());
                plugin_log::flush();
                if let Err(error) = answered {
                    if conversation.json {
                        printer::error(&error)?;
                    }
                    eprintln!("membrane: {}", judged::error(&error));
                }
            }
        }
    }
}
