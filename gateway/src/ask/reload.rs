//! `gateway reload`: what counts now, and what does only after something is started anew.

use std::io::Write;

use super::AskError;
use crate::admin::answer::Reloaded;
use crate::options::ReloadOptions;
use crate::table::print_json;

pub(super) fn run(options: &ReloadOptions) -> Result<(), AskError> {
    let reloaded = super::take_configuration(&options.place)?;
    if options.json {
        return print_json(&reloaded).map_err(AskError::Print);
    }
    writeln!(std::io::stdout(), "{}", text(&reloaded)).map_err(AskError::Print)
}

/// The same for people.
pub fn text(reloaded: &Reloaded) -> String {
    let Reloaded { applied, restart_agents, restart_gateway } = reloaded;
    let mut sections = Vec::new();
    let mut section = |heading: String, keys: &[String]| {
        if !keys.is_empty() {
            sections.push(format!("{heading}\n  {}", keys.join("\n  ")));
        }
    };
    section("these count from now on:".into(), applied);
    for (agent, keys) in restart_agents {
        section(format!("these count after `openclaw agent restart {agent}`:"), keys);
    }
    section("these count after the next start of the gateway:".into(), restart_gateway);
    if sections.is_empty() { "nothing has changed".into() } else { sections.join("\n") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What needs something more says what.
    #[test]
    fn changes_are_told_with_what_they_need() {
        let none = || Reloaded { applied: vec![], restart_agents: BTreeMap::new(), restart_gateway: vec![] };
        assert_eq!(text(&none()), "nothing has changed");
        let restart_agents = BTreeMap::from([("a".to_owned(), vec!["agents.entries.a.command".to_owned()])]);
        let told = text(&Reloaded { restart_agents, restart_gateway: vec!["gateway.port".into()], ..none() });
        assert_eq!(
            told,
            "these count after `openclaw agent restart a`:\n  agents.entries.a.command\n\
             these count after the next start of the gateway:\n  gateway.port"
        );
    }
}
