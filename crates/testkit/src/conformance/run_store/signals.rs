//! Signals: left once, seen in order, gone with what they asked for.

use windlass_core::run_store::{Change, RunRecord, Verdict};
use windlass_core::{LogicalName, RunKey, Signal, SignalId, SignalRecord, StartSignal};

use super::fixtures::{at, create, json, run, run_id};
use super::{Broken, Found, Place, same};

fn pause(n: u32) -> SignalRecord {
    SignalRecord::new(
        SignalId::new(u128::from(n)),
        Signal::Pause { run: run_id(n) },
        at(i64::from(n)),
    )
}

async fn left(p: &Place) -> Result<Vec<SignalRecord>, Broken> {
    Ok(p.signals(100).await?)
}

pub(super) async fn a_signal_reads_back_as_it_was_left(p: Place) -> Found {
    let RunRecord { version, date, .. } = run(1);
    let environment = LogicalName::new("dev").map_err(|e| Broken(e.to_string()))?;
    let key = RunKey::new("churn@dev").map_err(|e| Broken(e.to_string()))?;
    let params = json(r#"{"region":"emea"}"#);
    let start = StartSignal::new(key, "churn".to_owned(), version, environment, date, params);
    let cancel = Signal::Cancel {
        run: run_id(1),
        reason: "wrong data: \"emea\"\n".to_owned(),
    };
    let signals: Vec<_> = (1..)
        .zip([
            cancel,
            Signal::Pause { run: run_id(2) },
            Signal::Resume { run: run_id(2) },
            Signal::Start(Box::new(start)),
        ])
        .map(|(n, signal)| SignalRecord::new(SignalId::new(n), signal, at(n as i64)))
        .collect();
    for signal in &signals {
        p.signal(signal).await?;
    }
    same(&left(&p).await?, &signals)
}

pub(super) async fn a_signal_left_twice_is_there_once(p: Place) -> Found {
    p.signal(&pause(1)).await?;
    p.signal(&pause(1)).await?;
    p.put(vec![Change::AddSignal(Box::new(pause(1)))]).await?;
    same(&left(&p).await?, &vec![pause(1)])
}

pub(super) async fn signals_come_in_the_order_in_which_they_were_left(p: Place) -> Found {
    for n in [5, 1, 3] {
        p.signal(&pause(n)).await?;
    }
    same(&left(&p).await?, &vec![pause(5), pause(1), pause(3)])?;
    same(&p.signals(2).await?, &vec![pause(5), pause(1)])
}

pub(super) async fn a_signal_goes_with_what_it_asked_for(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    for n in [1, 2] {
        p.signal(&pause(n)).await?;
    }
    let take = |n: u32| Change::TakeSignal(SignalId::new(u128::from(n)));
    // A transition that is refused takes nothing.
    let taken = RunRecord::new(
        run_id(9),
        run(1).key,
        run(1).pipeline,
        run(1).version,
        run(1).environment,
        run(1).date,
        run(1).params,
        at(1),
    );
    let verdicts = p.put_all(vec![vec![create(taken), take(1)]]).await?;
    same(&verdicts, &vec![Verdict::KeyExists(run_id(1))])?;
    same(&left(&p).await?, &vec![pause(1), pause(2)])?;
    p.put(vec![Change::PutRun(Box::new(run(1))), take(1)])
        .await?;
    same(&left(&p).await?, &vec![pause(2)])?;
    // One that is gone is no error.
    p.put(vec![take(1), take(2)]).await?;
    same(&left(&p).await?, &Vec::new())
}

pub(super) async fn a_signal_can_be_taken_back(p: Place) -> Found {
    for n in [1, 2] {
        p.signal(&pause(n)).await?;
    }
    for n in [1, 1, 3] {
        p.withdraw(&SignalId::new(n)).await?;
    }
    same(&left(&p).await?, &vec![pause(2)])
}
