//! Who goes for the owner's pods, in short notation.

use proptest::prelude::*;

use super::*;
use crate::agent::executor::selecting::Reach;
use crate::api::gpus::GPU_RESOURCE;

fn gpus(count: u32) -> Load {
    let mut gpus = BTreeMap::from([(GPU_RESOURCE.to_owned(), count)]);
    gpus.retain(|_, count| *count > 0);
    Load { gpus, milli_cpu: u64::from(count) * 1000, memory: 0 }
}

fn nodes(count: usize) -> Vec<Node> {
    let node = |at| Node { name: format!("n{at}"), allocatable: gpus(8), ..Node::default() };
    (0..count).map(node).collect()
}

/// A node as `"free=2 a/0:4@100 g/0:2@50*"`: guests by lease and index, GPUs and GPU-seconds that
/// are lost; a star marks pods of a gang, a question mark those that are not bound.
fn place<'n>(node: &'n Node, text: &str) -> Place<'n> {
    let mut place = Place::of(node, Some("a"));
    for word in text.split_whitespace() {
        if let Some(free) = word.strip_prefix("free=") {
            place.free = gpus(free.parse().unwrap());
        } else if let Some(excess) = word.strip_prefix("over=") {
            place.excess = Load { milli_cpu: 0, ..gpus(excess.parse().unwrap()) };
        } else if let Some(leaving) = word.strip_prefix("leaving=") {
            place.leaving = gpus(leaving.parse().unwrap());
        } else {
            let (name, rest) = word.split_once(':').unwrap();
            let (lease, index) = name.split_once('/').unwrap();
            let (count, lost) = rest.trim_end_matches(['*', '?']).split_once('@').unwrap();
            let key = Key { index: index.parse().unwrap(), rank: 0 };
            let cost = Cost { lost: lost.parse().unwrap(), ..Cost::default() };
            let (gang, load) = (rest.ends_with('*'), gpus(count.parse().unwrap()));
            let (lease, bound) = (lease.into(), !rest.ends_with('?'));
            place.tenants.push(Tenant { lease, key, gang, bound, load, cost });
        }
    }
    place
}

fn wish(count: u32) -> Wish {
    Wish { load: gpus(count), reach: Reach::default() }
}

fn words(victims: &Victims) -> String {
    let word = |(lease, key): &(String, Option<Key>)| match key {
        Some(key) => format!("{lease}/{}", key.index),
        None => format!("{lease}*"),
    };
    victims.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Who goes for one stranded pod of so many GPUs.
#[track_caller]
fn check(places: &[&str], count: u32, want: &str) {
    let nodes = nodes(places.len());
    let mut places: Vec<_> =
        nodes.iter().zip(places).map(|(node, text)| place(node, text)).collect();
    let wish = wish(count);
    let going = make_room(&mut places, &[Claim { pod: "p", wish: &wish, stranded: true }]);
    assert_eq!(going.get("p").map(words).unwrap_or_default(), want);
}

#[test]
fn nobody_goes_where_there_is_room_or_none_can_be_made() {
    check(&["free=2 a/0:6@9"], 2, "");
    check(&["free=0 a/0:4@9"], 5, "");
    check(&["free=1 a/0:2@9", "free=1 b/0:2@9"], 4, "");
}

#[test]
fn as_few_go_as_are_needed_and_those_that_lose_the_least() {
    check(&["free=0 a/0:4@100 b/0:4@10"], 4, "b/0");
    check(&["free=0 a/0:4@100", "free=0 b/0:4@10"], 4, "b/0");
    // The small one loses least, but is not needed once the large one has to go.
    check(&["free=0 s/0:1@5 l/0:4@50"], 4, "l/0");
    check(&["free=3 s/0:1@5 l/0:4@50"], 4, "s/0");
    check(&["free=0 a/0:2@9 a/1:2@1 a/2:2@5"], 4, "a/1 a/2");
}

#[test]
fn gangs_go_whole_and_their_pods_make_room_together() {
    check(&["free=0 g/0:2@80* g/0:2@80*"], 4, "g*");
    check(&["free=0 g/0:4@80* a/0:4@90"], 4, "g*");
    check(&["free=0 g/0:4@80* a/0:4@70"], 4, "a/0");
}

#[test]
fn pods_that_others_make_room_for_take_none_away() {
    let nodes = nodes(1);
    let mut places = [place(&nodes[0], "free=0 a/0:8@9")];
    let wish = wish(4);
    let claim = |pod, stranded| Claim { pod, wish: &wish, stranded };
    assert_eq!(make_room(&mut places, &[claim("p", false)]).len(), 0);
    // What came free for the first is not free for the second.
    let going = make_room(&mut places, &[claim("p", true), claim("q", true)]);
    assert_eq!(going.keys().collect::<Vec<_>>(), ["p"]);
    let nodes = self::nodes(1);
    let mut places = [place(&nodes[0], "free=0 a/0:2@9 a/1:2@9 a/2:2@9 a/3:2@9")];
    let going = make_room(&mut places, &[claim("p", true), claim("q", true)]);
    assert_eq!((words(&going["p"]), words(&going["q"])), ("a/0 a/1".into(), "a/2 a/3".into()));
}

#[test]
fn guests_go_where_bound_pods_take_more_than_there_is() {
    let nodes = nodes(2);
    let over = |text: &str| words(&make_good(&mut [place(&nodes[0], text)]));
    assert_eq!(over("a/0:4@9 b/0:2@5"), "");
    assert_eq!(over("over=2 a/0:4@9 b/0:2@5"), "b/0");
    assert_eq!(over("over=3 a/0:4@9 b/0:2@5"), "a/0");
    assert_eq!(over("over=9 a/0:4@9 b/0:2@5"), "a/0 b/0");
    assert_eq!(over("over=2 a/0:4@9 c/0:2@1?"), "a/0", "the other one holds nothing yet");
    // A gang that goes for one node makes room on the other.
    let mut places =
        [place(&nodes[0], "over=2 g/0:2@9*"), place(&nodes[1], "over=1 g/1:2@9* a/0:2@1")];
    places[1].tenants[0].lease = "g".into();
    assert_eq!(words(&make_good(&mut places)), "g*");
    assert_eq!(places[1].free, Load { milli_cpu: 2000, ..gpus(1) });
}

#[test]
fn what_lacks_to_a_reserve_comes_from_the_cheapest_pods() {
    let nodes = nodes(2);
    let fill = |texts: [&str; 2], short, going: &[&str]| {
        let mut places = [place(&nodes[0], texts[0]), place(&nodes[1], texts[1])];
        let going = going.iter().map(|name| {
            let (lease, index) = name.split_once('/').unwrap();
            (lease.to_owned(), Some(Key { index: index.parse().unwrap(), rank: 0 }))
        });
        words(&fill_reserve(&mut places, "a", short, &going.collect()))
    };
    let two = ["a/0:1@5 a/1:1@5 b/0:4@90", "a/2:1@5 g/0:2@20*"];
    assert_eq!(fill(two, 1, &[]), "a/0", "one pod of many, not its lease");
    assert_eq!(fill(two, 3, &[]), "a/0 a/1 a/2");
    assert_eq!(fill(two, 5, &[]), "a/0 a/1 a/2 g*");
    assert_eq!(fill(two, 9, &[]), "a/0 a/1 a/2 b/0 g*");
    assert_eq!(fill(two, 99, &[]), "a/0 a/1 a/2 b/0 g*");
    assert_eq!(fill(two, 2, &["a/1"]), "a/0");
    assert_eq!(fill(["leaving=2 a/0:1@5", ""], 2, &[]), "");
    // The small one is taken first, but not needed once the large one goes.
    assert_eq!(fill(["s/0:1@5 l/0:4@50", ""], 4, &[]), "l/0");
    assert_eq!(words(&fill_reserve(&mut [place(&nodes[0], two[0])], "b", 1, &Victims::new())), "");
}

prop_compose! {
    fn any_place()(free in 0_u32..4, guests in prop::collection::vec((1_u32..5, 0_i64..50, any::<bool>(), 0_usize..3), 0..6))
        -> String {
        let guest = |(at, (count, lost, gang, lease)): (usize, &(u32, i64, bool, usize))| {
            // A lease is a gang or it is not; a gang costs the same wherever its pods are.
            match gang {
                true => format!("g{lease}/{at}:{count}@{}*", 10 * lease + 5),
                false => format!("a{lease}/{at}:{count}@{lost}"),
            }
        };
        let guests: Vec<_> = guests.iter().enumerate().map(guest).collect();
        format!("free={free} {}", guests.join(" "))
    }
}

proptest! {
    /// What was free and what its victims held on some node hold the pod; without any one of them it
    /// would not fit there; and nobody goes if it fits anyway.
    #[test]
    fn victims_are_enough_and_none_is_spare(texts in prop::collection::vec(any_place(), 1..4), count in 1_u32..9) {
        let nodes = nodes(texts.len());
        // A single pod is on one node only.
        let own = |(at, text): (usize, &String)| text.replace(" a", &format!(" n{at}a"));
        let texts: Vec<_> = texts.iter().enumerate().map(own).collect();
        let before: Vec<_> = nodes.iter().zip(&texts).map(|(node, text)| place(node, text)).collect();
        let wish = wish(count);
        let going = make_room(&mut before.clone(), &[Claim { pod: "p", wish: &wish, stranded: true }]);
        let fits_without = |place: &Place, gone: &dyn Fn(&Tenant) -> bool| {
            let mut free = place.free.clone();
            place.tenants.iter().filter(|one| gone(one)).for_each(|one| free.add(&one.load));
            covers(&free, &wish.load)
        };
        let fits_anyway = before.iter().any(|place| fits_without(place, &|_| false));
        let Some(victims) = going.get("p") else {
            prop_assert!(fits_anyway || !before.iter().any(|place| fits_without(place, &|_| true)));
            return Ok(());
        };
        prop_assert!(!fits_anyway && !victims.is_empty());
        prop_assert!(before.iter().any(|place| fits_without(place, &|one| victims.contains(&name(one)))));
        for spared in victims {
            let gone = |one: &Tenant| victims.contains(&name(one)) && name(one) != *spared;
            prop_assert!(!before.iter().any(|place| fits_without(place, &gone)), "{spared:?} is spare");
        }
    }
}
