//! The same with read models on PostgreSQL.

use crate::{
    cuts::{Carrier, cut_at_random},
    rebuilt,
    rig::Rig,
    seams, stream,
};

macro_rules! on_postgres {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $module::$name(Rig::on_postgres().await).await;
        })+
    };
}

on_postgres! {
    rebuilt::built_beneath_those_who_follow,
    seams::somebody_dies,
    seams::one_of_two_dies,
    seams::one_of_two_is_mute,
    seams::others_are_built,
    stream::one_order_is_followed,
    stream::a_list_tells,
}

#[tokio::test(flavor = "multi_thread")]
async fn after_cuts_nothing_is_missing_and_nothing_comes_twice() {
    cut_at_random(Rig::on_postgres().await, Carrier::Events, 250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_cuts_of_a_socket_nothing_is_missing_and_nothing_comes_twice() {
    cut_at_random(Rig::on_postgres().await, Carrier::Socket, 250).await;
}
