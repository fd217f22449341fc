//! The command line of `openclaw config`, `openclaw token` and `openclaw gateway validate`.

use clap::{Args, Subcommand};

use super::FilePlace;

/// Examples of `config`.
pub(super) const CONFIG_EXAMPLES: &str = "Examples:\n  \
    openclaw config get                                     all that the file says, without secrets\n  \
    openclaw config get gateway.port                        one value\n  \
    openclaw config set gateway.port 18790                  change it; comments stay\n  \
    openclaw config set agents.entries.words.command '[\"python3\", \"words.py\"]'\n  \
    openclaw config set gateway.auth.password -             read it from standard input\n  \
    openclaw config unset gateway.port                      back to the default\n  \
    openclaw config validate                                every broken rule at once\n\n\
    KEY is a path such as gateway.port, routing.rules[0].agent or agents.entries[\"a.b\"].";

/// Examples of `token`.
pub(super) const TOKEN_EXAMPLES: &str = "Examples:\n  \
    openclaw token show     the token, and the link that has it\n  \
    openclaw token rotate   a new one, which counts at once\n  \
    openclaw token new      one that nobody uses yet";

/// What can be done with the configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what the file says: of one key, or all of it, without secrets.
    Get(ConfigGetOptions),
    /// Change a value. Comments and layout of the file stay; if a rule would be broken, all of it does.
    Set(ConfigSetOptions),
    /// Take a key out of the file, so that its default holds.
    Unset(ConfigUnsetOptions),
    /// Check the file: every broken rule, and keys that are not supported.
    Validate(ConfigPrintOptions),
    /// Print the keys, their types, defaults and limits, as JSON Schema.
    Schema(ConfigSchemaOptions),
    /// Print the path of the file.
    File(ConfigPrintOptions),
}

/// Which value to print.
#[derive(Args, Clone, Debug)]
pub struct ConfigGetOptions {
    /// Which key; all if left out.
    pub key: Option<String>,
    /// Print tokens, passwords and the environment of agents as they are.
    #[arg(long)]
    pub show_secrets: bool,
    /// Print JSON, also of a text.
    #[arg(long)]
    pub json: bool,
    /// Which file.
    #[command(flatten)]
    pub place: FilePlace,
}

/// What to change.
#[derive(Args, Clone, Debug)]
pub struct ConfigSetOptions {
    /// Which key.
    pub key: String,
    /// JSON5; what is none, or is given to a key that is a text, is taken as a text. `-`: read it from standard input.
    #[arg(allow_hyphen_values = true)]
    pub value: String,
    /// Print `{"path", "changed", "keys": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which file.
    #[command(flatten)]
    pub place: FilePlace,
}

/// What to take out.
#[derive(Args, Clone, Debug)]
pub struct ConfigUnsetOptions {
    /// Which key.
    pub key: String,
    /// Print `{"path", "changed", "keys": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which file.
    #[command(flatten)]
    pub place: FilePlace,
}

/// How to print what is known of a file.
#[derive(Args, Clone, Debug)]
pub struct ConfigPrintOptions {
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which file.
    #[command(flatten)]
    pub place: FilePlace,
}

/// How to print the schema: it is JSON in any case.
#[derive(Args, Clone, Copy, Debug)]
pub struct ConfigSchemaOptions {
    /// Print it in one line.
    #[arg(long)]
    pub json: bool,
}

/// What can be done with the token.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a new random token. Nothing is changed.
    New(TokenNewOptions),
    /// Print the token, and the link to the gateway that has it.
    Show(ConfigPrintOptions),
    /// Put a new token into the file, and have a running gateway take it: the old one is refused from then on.
    Rotate(ConfigPrintOptions),
}

/// How to print a new token.
#[derive(Args, Clone, Copy, Debug)]
pub struct TokenNewOptions {
    /// Print `{"token"}` as JSON.
    #[arg(long)]
    pub json: bool,
}
