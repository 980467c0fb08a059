use super::*;
use crate::engine::model::PodNeed;
use crate::engine::notation::guest;

fn replica(gpus: u32) -> Replica<'static> {
    let need = PodNeed { gpus, milli_cpu: 1000, memory: 1 };
    Replica { model: "A100", min_memory: None, need, size: 1 }
}

#[test]
fn gpus_of_a_known_node_add_up_and_others_do_not() {
    let mut back = Returned::new(replica(8), &Spoken::default());
    let (one, two) = (guest("A100 a gpus=4 nodes=7:1"), guest("A100 b gpus=4 nodes=7:1"));
    back.add(0, &one);
    assert_eq!((back.pods, back.gpus()), (0, 4));
    back.add(1, &two);
    assert_eq!((back.pods, back.gpus()), (1, 8));
    back.remove(0, &one);
    assert_eq!((back.pods, back.gpus()), (0, 4));
    let mut back = Returned::new(replica(8), &Spoken::default());
    back.add(0, &guest("A100 a x16 gpus=4"));
    assert_eq!((back.pods, back.gpus()), (0, 64), "they may be on 16 nodes");
    let mut back = Returned::new(replica(2), &Spoken::default());
    back.add(0, &guest("A100 a x3 gpus=5 cpu=2000 nodes=1:2"));
    assert_eq!(back.pods, 4 + 2, "by GPUs 5, by CPU 4 on the node, and 2 somewhere");
}

#[test]
fn other_models_give_no_room() {
    let mut back = Returned::new(replica(1), &Spoken::default());
    back.add(0, &guest("H100 a x9"));
    assert_eq!((back.pods, back.gpus()), (0, 9));
}

#[test]
fn what_is_spoken_for_is_not_there_for_the_next() {
    let mut spoken = Spoken::default();
    let mut back = Returned::new(replica(2), &spoken);
    back.add(0, &guest("A100 a x3 gpus=4 cpu=4000"));
    assert_eq!(back.speak_for(5, &mut spoken), 5);
    let mut next = Returned::new(replica(2), &spoken);
    next.add(0, &guest("A100 a x3 gpus=4 cpu=4000"));
    assert_eq!((next.pods, next.gpus()), (1, 2));
    assert_eq!(next.speak_for(5, &mut spoken), 1);
}

#[test]
fn what_is_lost_are_the_gpu_seconds_since_the_start() {
    let guest = Guest { since: 1_000, ..guest("A100 a x3 gpus=2") };
    assert_eq!((guest.lost(11_999), guest.lost(500)), (60, 0));
}
