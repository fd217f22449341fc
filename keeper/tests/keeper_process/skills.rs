//! Skills: started beside their agent, with the pipes of the gateway, and never longer than either.

use std::fs::File;
use std::io::{PipeReader, Read};

use keeper::control::Skill;
use keeper::sandbox::spec::SandboxSpec;

use super::*;

impl Fixture {
    fn skill(&self, instance: u64, parent: u64, argv: &[&str]) -> Skill {
        Skill {
            instance,
            parent,
            name: "skill".to_owned(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            log_path: self.log(),
            limits: control::Limits::default(),
            sandbox: Box::new(SandboxSpec::default()),
        }
    }

    /// Asks for a skill that reads what the file holds. The pipe ends when nobody can write to it any more.
    fn ask(&mut self, skill: Skill, input: &Path) -> PipeReader {
        assert!(self.client.starts_skills());
        let (reader, writer) = std::io::pipe().unwrap();
        let input = File::open(input).unwrap();
        self.client.start_skill(skill, [input.as_fd(), writer.as_fd()]).unwrap();
        reader
    }
}

fn read(mut pipe: PipeReader) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

fn over(fixture: &mut Fixture, skill: u64, how: Exit) {
    let (event, fds) = fixture.event();
    let Event::Died { instance, generation: 0, exit, .. } = event else { panic!("{event:?}") };
    assert_eq!((instance, exit, fds.len()), (skill, how, 0));
}

/// A skill reads what it is given, says what it finds in a sandbox of its own, and its end is reported. It gets none of the
/// variables of an agent.
#[test]
fn a_skill_answers() {
    let mut fixture = Fixture::start();
    let _agent = fixture.spawn(1);
    let input = fixture.directory.path().join("input");
    std::fs::write(&input, "what it is given").unwrap();
    let script = "cat; echo; echo $$ $OPENCLAW_SKILL_NAME $OPENCLAW_AGENT_NAME $GREETING.; pwd; exit 4";
    let pipe = fixture.ask(fixture.skill(2, 1, &["sh", "-c", script]), &input);
    assert_eq!(read(pipe), "what it is given\n1 skill .\n/\n");
    over(&mut fixture, 2, Exit::Code(4));
}

/// What cannot be started is reported by step and name; the keeper goes on.
#[test]
fn refusals_name_the_thing() {
    let mut fixture = Fixture::start();
    let _agent = fixture.spawn(1);
    let cases = [
        (fixture.skill(2, 3, &["true"]), "admission", "its agent, instance 3, is not alive"),
        (fixture.skill(1, 1, &["true"]), "admission", "instance 1 is alive"),
        (
            fixture.skill(2, 1, &["/no/such/program"]),
            "run",
            "program /no/such/program cannot be run: No such file or directory (os error 2)",
        ),
    ];
    for (skill, step, reason) in cases {
        let instance = skill.instance;
        assert_eq!(read(fixture.ask(skill, Path::new("/dev/null"))), "");
        let (step, reason) = (step.to_owned(), reason.to_owned());
        assert_eq!(fixture.event().0, Event::SpawnFailed { instance, generation: 0, step, reason });
    }
    let pipe = fixture.ask(fixture.skill(2, 1, &["echo", "on"]), Path::new("/dev/null"));
    assert_eq!(read(pipe), "on\n");
    over(&mut fixture, 2, Exit::Code(0));
}

/// A skill is killed by a signal to it, with its agent, and with the gateway: each time its pipe ends, which descendants
/// would hold open. Skills of other agents go on.
#[test]
fn skills_live_no_longer_than_those_who_need_them() {
    let mut fixture = Fixture::start();
    let (first, _second) = (fixture.spawn(1), fixture.spawn(2));
    let holds = ["sh", "-c", "setsid sleep 1000 & echo here; sleep 1000"];
    let ask = |fixture: &mut Fixture, instance, parent| {
        let skill = fixture.skill(instance, parent, &holds);
        let mut pipe = fixture.ask(skill, Path::new("/dev/null"));
        let mut said = [0; 5];
        pipe.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"here\n");
        pipe
    };
    let killed = ask(&mut fixture, 3, 1);
    let orphaned = ask(&mut fixture, 4, 1);
    let last = ask(&mut fixture, 5, 2);
    fixture.client.send(&Request::Kill { instance: 3, signal: 9 }).unwrap();
    assert_eq!(read(killed), "");
    over(&mut fixture, 3, Exit::Signal(9));

    kill(first.process_id);
    assert_eq!(fixture.event().0, died(1, first.process_id, Exit::Signal(9)));
    assert_eq!(read(orphaned), "");
    over(&mut fixture, 4, Exit::Signal(9));

    let Fixture { client, directory: _directory } = fixture;
    drop(client);
    assert_eq!(read(last), "");
}
