//! Deciding where a message goes allocates nothing, whichever row of the table decides.

use allocation_counter::measure;
use engine::event::{AgentIndex, ShardIndex};
use engine::routing::{Action, AgentSpec, Reason, RouteRequest, RoutingTable, Rule};

/// One request for each kind of reason, each a thousand times: by the number of allocations.
#[test]
fn routing_allocates_nothing() {
    let agents: Vec<_> = (0..64)
        .map(|index| AgentSpec {
            index: AgentIndex(index),
            name: format!("agent{index}"),
            pool: Some(format!("pool{}", index % 4)),
            capabilities: vec![format!("skill{}", index % 3)],
            home: ShardIndex(0),
        })
        .collect();
    let rule = |channel: Option<&str>, text: Option<&str>| Rule {
        channel: channel.map(str::to_owned),
        text: text.map(str::to_owned),
        text_prefix: None,
        label: None,
        action: Action::Pool("pool1".to_owned()),
    };
    let rules = [rule(None, Some("refund")), rule(None, Some("Überweisung")), rule(Some("mail"), None)];
    let table = RoutingTable::build(1, &agents, &rules, Some("pool2")).expect("a sound configuration");
    let nothing = RouteRequest {
        explicit: "",
        affinity: None,
        channel: "web",
        text: "what is the WEATHER like",
        labels: "",
        own_shard: ShardIndex(0),
        rotation: 0,
    };
    let requests = [
        (RouteRequest { explicit: "pool3", ..nothing }, Reason::Named),
        (RouteRequest { affinity: Some(AgentIndex(5)), ..nothing }, Reason::Affinity),
        (RouteRequest { text: "my REFUND", ..nothing }, Reason::Rule(0)),
        (RouteRequest { text: "eine ÜBERWEISUNG", ..nothing }, Reason::Rule(1)),
        (RouteRequest { labels: "x skill2", ..nothing }, Reason::Capability),
        (RouteRequest { channel: "mail", ..nothing }, Reason::Channel(2)),
        (nothing, Reason::Default),
    ];
    for (request, reason) in requests {
        let mut seen = None;
        let info = measure(|| {
            for rotation in 0..1000 {
                let request = RouteRequest { rotation, ..request };
                seen = Some(table.route(&request, |agent| agent.0 % 5, |_| true).map(|it| it.reason));
            }
        });
        assert_eq!((seen, info.count_total), (Some(Ok(reason)), 0));
    }
}
