//! Steps that need nothing but their action: `check` and `fail`.

use async_trait::async_trait;
use windlass_core::{Action, Step, StepContext, StepError, StepOutput};

/// Fails unless its condition, already evaluated, is true; a false one comes as `fail` with its text.
#[derive(Debug)]
pub(crate) struct CheckStep;

#[async_trait]
impl Step for CheckStep {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        match cx.action() {
            Some(Action::Check(verdict)) if verdict.as_str() == "true" => Ok(StepOutput::empty()),
            Some(Action::Check(condition)) => Err(StepError::permanent(format!(
                "check does not hold: {}",
                condition.as_str()
            ))),
            Some(Action::Fail(message)) => Err(StepError::permanent(message.as_str())),
            _ => Err(StepError::permanent("this is no check")),
        }
    }
}

/// Fails with its message.
#[derive(Debug)]
pub(crate) struct FailStep;

#[async_trait]
impl Step for FailStep {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        match cx.action() {
            Some(Action::Fail(message)) => Err(StepError::permanent(message.as_str())),
            _ => Err(StepError::permanent("this is no fail step")),
        }
    }
}
