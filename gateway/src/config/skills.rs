//! Skills: commands that agents may have run for one question each, in a sandbox that is a part of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keeper::sandbox::spec::{NotNarrower, SandboxSpec};
use schemars::JsonSchema;
use serde::Deserialize;
use shm_transport::envelope::SKILL_NAME_BYTES_MAX;

use super::agents::AgentConfig;
use super::range;
use super::sandbox::{self, FileSkillSandbox, is_visible, program_refused};

const SKILLS_MAX: usize = 256;
const SKILL_TIMEOUT_DEFAULT_MS: u64 = 30_000;
const SKILL_TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Command and sandbox of a skill, as JSON: what fits into one datagram to the keeper beside names and paths.
const SKILL_BYTES_MAX: usize = 48 * 1024;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileSkills {
    #[serde(default)]
    entries: BTreeMap<String, FileSkill>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileSkill {
    command: Vec<String>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    sandbox: FileSkillSandbox,
}

/// How a skill is run for one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkillCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// What it may see and do.
    pub sandbox: SandboxSpec,
}

/// Checks the skills, and gives each agent those that it lists. Returns the names of all.
pub(super) fn check(
    broken: &mut Vec<String>,
    file: FileSkills,
    agents: &mut [AgentConfig],
    state_directory: &Path,
) -> BTreeSet<String> {
    if file.entries.len() > SKILLS_MAX {
        let count = file.entries.len();
        broken.push(format!("skills.entries has {count} skills: at most {SKILLS_MAX} are possible"));
    }
    for (name, skill) in &file.entries {
        let key = format!("skills.entries.{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty()
            || name.len() > SKILL_NAME_BYTES_MAX
            || name.starts_with('.')
            || !name.chars().all(plain)
        {
            broken.push(format!(
                "{key}: a name has 1 to {SKILL_NAME_BYTES_MAX} letters, digits, '-', '_' or '.', and no '.' first"
            ));
        }
        if skill.command.is_empty() {
            broken.push(format!("{key}.command = []: must name a program"));
        }
        let timeout = skill.timeout_ms.unwrap_or(SKILL_TIMEOUT_DEFAULT_MS);
        range(broken, &format!("{key}.timeoutMs"), timeout, 1, SKILL_TIMEOUT_MAX_MS);
        // Members of a pool are next to each other, and alike.
        for pool in agents.chunk_by_mut(|one, other| one.pool == other.pool) {
            if !pool[0].life.skills.contains(name) {
                continue;
            }
            let Some(sandbox) = narrowed(broken, &key, skill, &pool[0], state_directory) else { continue };
            let command = skill.command.clone();
            let command = SkillCommand { command, timeout: Duration::from_millis(timeout), sandbox };
            for agent in pool {
                agent.skill_commands.insert(name.clone(), command.clone());
            }
        }
    }
    file.entries.into_keys().collect()
}

/// The sandbox of a skill for an agent, if all rules hold.
fn narrowed(
    broken: &mut Vec<String>,
    key: &str,
    skill: &FileSkill,
    agent: &AgentConfig,
    state_directory: &Path,
) -> Option<SandboxSpec> {
    let before = broken.len();
    let outer = agent.sandbox.clone();
    let base = outer.clone().unwrap_or_default();
    let wanted = sandbox::of_skill(broken, key, &skill.sandbox, &base, state_directory);
    if let Some(Err(NotNarrower { field })) = outer.map(|outer| outer.narrow(&wanted)) {
        let pool = &agent.pool;
        broken.push(format!(
            "{key}.sandbox: {field} is wider than that of agent \"{pool}\", which lists the skill"
        ));
    }
    if let Some(program) = skill.command.first()
        && let Some(rule) = refused(program, &wanted)
    {
        broken.push(format!("{key}.command[0] = \"{program}\": {rule}"));
    }
    let bytes = serde_json::json!((&skill.command, &wanted)).to_string().len();
    if bytes > SKILL_BYTES_MAX {
        broken.push(format!(
            "{key} has {bytes} bytes of command and sandbox: at most {SKILL_BYTES_MAX} are possible"
        ));
    }
    (broken.len() == before).then_some(wanted)
}

/// Why a program cannot be run in a sandbox, if it cannot.
fn refused(program: &str, spec: &SandboxSpec) -> Option<String> {
    if program.contains('/') && !Path::new(program).is_absolute() {
        return Some("must be an absolute path, or a name that is looked for in PATH".to_owned());
    }
    let path = PathBuf::from(program);
    program_refused(program, None, Some(spec)).or_else(|| {
        let hidden = path.is_absolute() && !is_visible(&spec.binds, &path);
        hidden.then(|| "lies where the sandbox of an agent that lists the skill does not show it".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use crate::options::RunOptions;

    /// Each rule, by the key that its breach names; what a skill does not say is as its agent has it, and it runs for the
    /// agents that list it.
    #[test]
    fn rules_of_skills_are_checked() {
        let text = |skill: &str, sandbox: &str| {
            format!(
                "{{skills: {{entries: {{s: {skill}}}}}, agents: {{entries: {{
                    a: {{command: ['ls'], skills: ['s', 'other'], sandbox: {sandbox}}}, b: {{command: ['ls']}}}}}}}}"
            )
        };
        let check_broken = |skill: &str, sandbox: &str, rule: &str| {
            let broken = check(&text(skill, sandbox), &RunOptions::default()).unwrap_err();
            assert!(broken.len() == 1 && broken[0].starts_with(rule), "{rule}: {broken:?}");
        };
        check_broken("{command: []}", "{}", "skills.entries.s.command = []");
        check_broken(
            "{command: ['./x']}",
            "{}",
            "skills.entries.s.command[0] = \"./x\": must be an absolute",
        );
        check_broken("{command: ['/x']}", "{}", "skills.entries.s.command[0] = \"/x\": no such program");
        check_broken("{command: ['ls'], timeoutMs: 0}", "{}", "skills.entries.s.timeoutMs = 0");
        let host = "{command: ['ls'], sandbox: {network: 'host'}}";
        check_broken(
            host,
            "{network: 'none'}",
            "skills.entries.s.sandbox: network is wider than that of agent \"a\"",
        );
        let etc = "{command: ['ls'], sandbox: {binds: [{source: '/var', target: '/v'}]}}";
        check_broken(etc, "{}", "skills.entries.s.sandbox: binds is wider");
        let config = check(&text(host, "{network: 'host'}"), &RunOptions::default()).unwrap();
        let agent = |name: &str| config.agents.iter().find(|agent| agent.name == name).unwrap();
        let known: Vec<&str> = agent("a").skill_commands.keys().map(String::as_str).collect();
        assert_eq!((known, agent("b").skill_commands.len()), (vec!["s"], 0));
        let narrow =
            "{command: ['ls'], sandbox: {network: 'none', seccomp: 'strict', limits: {openFiles: 16}}}";
        let config = check(&text(narrow, "{}"), &RunOptions::default()).unwrap();
        let agent = &config.agents[0];
        let (outer, inner) = (agent.sandbox.clone().unwrap(), &agent.skill_commands["s"].sandbox);
        assert_ne!(&outer, inner);
        assert_eq!(outer.narrow(inner).as_ref(), Ok(inner));
    }
}
