//! Agents that give no signs of life.

use super::*;

/// An agent that gave signs of life, and none since, is fenced while it has work, and told of once; what it writes when it
/// goes on has no effect, neither before its death is known nor after: the message goes to the next one, and what that one
/// says is all that the edge hears.
#[test]
fn a_hung_agent_has_no_effect_any_more() {
    let mut bench = bench();
    let mut zombie = bench.attach(InstanceId(1));
    let heart = zombie.sender.heart();
    heart.beat();
    let mut now = 1;
    let mut let_pass = |bench: &mut Bench, until: u64, alive: bool| {
        while now < until {
            now += 1;
            bench.turns(at(now));
            if alive && heart.asked() > 0 {
                heart.beat();
            }
        }
    };
    let_pass(&mut bench, 1000, true);
    assert_eq!(zombie.sender.heart().asked(), 1, "idle, and asked when it came");
    bench.ask();
    let_pass(&mut bench, 2000, true);
    let route = given(&mut zombie);
    assert!(bench.notices.try_recv().is_err(), "it answers");
    assert_eq!(zombie.sender.heart().asked(), 1 + 10, "asked in each interval");
    assert!(bench.shard.next_deadline() <= Some(at(2150)), "the shard sleeps no longer than that");
    let_pass(&mut bench, 2500, false);
    let Ok(Notice::AgentHung { instance, silent }) = bench.notices.try_recv() else {
        panic!("the agent is not found");
    };
    assert_eq!((instance, silent), (InstanceId(1), Duration::from_millis(300)));
    // It goes on, and answers.
    let mut say = |content: &str| {
        zombie.sender.send(&route, &BlockV1 { block_type: 0, content: content.into() }).unwrap();
        zombie.sender.send(&route, &EndV1 { content: content.into() }).unwrap();
        zombie.sender.flush().unwrap();
    };
    say("before its death is known");
    assert_eq!(bench.shard.rung(InstanceId(1)), None);
    let_pass(&mut bench, 2600, true);
    let down = Command::Down { agent: AgentIndex(0), instance: InstanceId(1), detail: "hung".into() };
    bench.commands.send(down).unwrap();
    let_pass(&mut bench, 2700, true);
    let mut next = bench.attach(InstanceId(2));
    say("after it");
    let_pass(&mut bench, 2800, true);
    let mut route = Route::default();
    next.receiver.receive(1, |m| route = m.route).unwrap();
    assert_eq!(route.attempt, 2);
    next.sender.send(&route, &EndV1 { content: "mine".into() }).unwrap();
    next.sender.flush().unwrap();
    bench.turns(at(2801));
    let mut heard = Vec::new();
    let each = |m: Message<'_>| {
        let Opened::End(end) = m.open() else { panic!("{:?}", m.kind()) };
        heard.push(end.content.as_str().to_owned());
    };
    bench.edge.receiver.receive(1000, each).unwrap();
    assert_eq!(heard, ["mine"]);
    assert!(bench.notices.try_recv().is_err(), "told once");
}

/// An agent that says nothing at all is given up after the time for its start; one that has said something and gives no
/// signs of life, as older builds do, is not; nor is anybody else once all are told to end.
#[test]
fn a_silent_start_has_an_end() {
    let silent = |speaks: bool, stops: bool| {
        let mut bench = bench();
        let mut agent = bench.attach(InstanceId(1));
        if speaks {
            agent.sender.send(&Route::default(), &HelloV1::default()).unwrap();
            agent.sender.flush().unwrap();
        }
        if stops {
            bench.commands.send(Command::StopAgents).unwrap();
        }
        (1..100).for_each(|tenth| bench.turns(at(tenth * 100)));
        let mut mute = Vec::new();
        while let Ok(notice) = bench.notices.try_recv() {
            match notice {
                Notice::AgentMute { instance, waited } => mute.push((instance, waited)),
                Notice::AgentReady { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        mute
    };
    assert_eq!(silent(false, false), [(InstanceId(1), START)]);
    assert_eq!((silent(true, false), silent(false, true)), (vec![], vec![]));
}

/// An agent of an earlier gateway that gave signs of life to that one is looked at at once: it is fenced if it gives none
/// to this one, though it has nothing to do; one that gives them goes on.
#[test]
fn an_adopted_agent_is_asked_for_signs_of_life() {
    let hung = |beats: bool| {
        let (ours, theirs) = linked();
        let heart = theirs.sender.heart();
        heart.beat();
        let mut bench = bench();
        bench.adopt(InstanceId(1), ours);
        let mut hung = Vec::new();
        for tenth in 1..300 {
            bench.turns(at(tenth * 100));
            if beats {
                heart.beat();
            }
            while let Ok(notice) = bench.notices.try_recv() {
                if let Notice::AgentHung { instance, .. } = notice {
                    hung.push(instance);
                }
            }
        }
        hung
    };
    assert_eq!(hung(false), [InstanceId(1)]);
    assert_eq!(hung(true), []);
}
