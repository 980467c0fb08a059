use proptest::prelude::*;

use super::*;
use crate::engine::idle::{Gpus, Need};

fn need(gpus: Gpus, milli_cpu: u64) -> Need {
    Need { gpus, milli_cpu, memory: 1 }
}

fn class(model: usize, whole: u32, milli_cpu: u64) -> Class {
    Class { model, idle: Idle { milli_cpu, memory: 9, whole, parts: Vec::new() } }
}

fn models() -> Vec<String> {
    vec!["G2".into(), "T4".into()]
}

fn free_of_models(gpus: Gpus) -> Ask {
    Ask { need: need(gpus, 1), models: None }
}

#[test]
fn an_empty_board_has_no_choice() {
    let mut board = Board::new(Tightest::new(Mix::default()), models());
    let ask = board.ask(&free_of_models(Gpus::Whole(1)));
    assert_eq!(board.choose(ask), None);
    let class = board.add(7, class(0, 1, 9));
    assert_eq!(board.choose(ask).map(|choice| choice.holder), Some(7));
    board.remove(7, class);
    assert_eq!(board.choose(ask), None);
    board.remove(7, class);
    assert_eq!(board.choose(ask), None);
}

#[test]
fn ties_go_to_the_tightest_and_then_the_first() {
    let mut board = Board::new(Tightest::new(Mix::default()), models());
    for (holder, class) in
        [class(0, 8, 9), class(0, 2, 9), class(1, 2, 5), class(0, 2, 5)].into_iter().enumerate()
    {
        board.add(holder, class);
    }
    let ask = board.ask(&free_of_models(Gpus::Whole(2)));
    assert_eq!(board.choose(ask).map(|choice| choice.holder), Some(2));
    let bound = Ask { models: Some(["G2".to_owned()].into()), ..free_of_models(Gpus::Whole(2)) };
    let bound = board.ask(&bound);
    assert_eq!(board.choose(bound).map(|choice| choice.holder), Some(3));
}

#[test]
fn a_holder_keeps_its_other_nodes_of_a_class() {
    let mut board = Board::new(Tightest::new(Mix::default()), models());
    board.add(3, class(0, 4, 9));
    let number = board.add(3, class(0, 4, 9));
    board.remove(3, number);
    let ask = board.ask(&free_of_models(Gpus::Whole(4)));
    assert_eq!(board.choose(ask).map(|choice| choice.holder), Some(3));
}

/// The best of all nodes by the rule, looked at one by one.
fn plain(rule: &Tightest, nodes: &[Class], models: &[String], ask: &Ask) -> Option<usize> {
    let able = nodes.iter().enumerate().filter(|(_, class)| ask.accepts(&models[class.model]));
    let cost = |(place, class): (usize, &Class)| {
        let (cost, _) = rule.cost(class, rule.worth(class), ask)?;
        Some((cost, rule.tie(class), place))
    };
    able.filter_map(cost).min().map(|(.., place)| place)
}

fn some_ask() -> impl Strategy<Value = Ask> {
    let gpus = prop_oneof![
        Just(Gpus::None),
        (1_u32..1_000).prop_map(Gpus::Part),
        (1_u32..9).prop_map(Gpus::Whole)
    ];
    (gpus, 0_u64..9, any::<bool>()).prop_map(|(gpus, milli_cpu, bound)| Ask {
        need: need(gpus, milli_cpu),
        models: bound.then(|| ["T4".to_owned()].into()),
    })
}

proptest! {
    #[test]
    fn a_board_chooses_as_a_look_at_every_node(
        nodes in prop::collection::vec((0_usize..2, 0_u32..16, 0_u64..40), 0..8),
        asked in prop::collection::vec(some_ask(), 1..6),
    ) {
        let counts = asked.iter().map(|ask| (ask.clone(), 1)).collect();
        let mut board = Board::new(Tightest::new(Mix::new(&counts)), models());
        let mut nodes: Vec<Class> =
            nodes.into_iter().map(|(model, whole, cpu)| class(model, whole, cpu)).collect();
        for (holder, class) in nodes.iter().enumerate() {
            board.add(holder, class.clone());
        }
        // The same requests again and again, so that what was found out before could be used too long.
        for ask in asked.iter().cycle().take(4 * asked.len()) {
            let number = board.ask(ask);
            let choice = board.choose(number);
            let expected = plain(&board.rule, &nodes, &models(), ask);
            prop_assert_eq!(choice.map(|choice| choice.holder), expected);
            let Some(choice) = choice else { continue };
            prop_assert_eq!(board.class(choice.class), &nodes[choice.holder]);
            let before = nodes[choice.holder].clone();
            prop_assert!(before.idle.places(&ask.need).any(|place| place == choice.place));
            board.remove(choice.holder, choice.class);
            let idle = before.idle.less(&ask.need, choice.place);
            nodes[choice.holder] = Class { idle, ..before };
            board.add(choice.holder, nodes[choice.holder].clone());
        }
    }
}
