//! Counts what is asked over gRPC: the manual's three metrics without labels, and companions that tell methods and codes apart.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use foundation_runtime::Clock;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use metrics::{counter, histogram};
use tonic::Code;
use tower::{Layer, Service};

/// Makes services that are counted.
#[derive(Clone, Debug)]
pub(crate) struct ObserveLayer(Clock);

/// A service that is counted.
#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    clock: Clock,
}

impl ObserveLayer {
    /// Latencies are measured by this clock.
    pub(crate) fn new(clock: Clock) -> Self {
        // So that a rate can be taken of the first failure.
        counter!("dwcp_requests_total").absolute(0);
        counter!("dwcp_errors_total").absolute(0);
        Self(clock)
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, clock: self.0.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Observed<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let call = Call { begun: self.clock.now(), clock: self.clock.clone(), method: Method::of(&path) };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            counter!("dwcp_requests_total").increment(1);
            histogram!("dwcp_latency_seconds").record((call.clock.now() - call.begun).as_secs_f64());
            let code = code_of(response.headers());
            let mut waiting = Some(call);
            if let (Some(code), Some(call)) = (code, waiting.take_if(|_| code.is_some())) {
                call.end(code);
            }
            Ok(response.map(|inner| Observed { inner, waiting }))
        })
    }
}

/// A call whose end is still to be counted.
#[derive(Debug)]
struct Call {
    begun: Instant,
    clock: Clock,
    method: Method,
}

/// Service and method, for labels: only those of this server, so that a stranger cannot make up series.
#[derive(Debug)]
struct Method {
    component: String,
    method: String,
}

impl Method {
    fn of(path: &str) -> Self {
        let named = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let (service, method) = named.unwrap_or(("unknown", "unknown"));
        Self { component: service.to_owned(), method: method.to_owned() }
    }
}

impl Call {
    fn end(self, code: Code) {
        let Method { component, method } = self.method;
        let (component, method) = if code == Code::Unimplemented {
            ("unknown".to_owned(), "unknown".to_owned())
        } else {
            (component, method)
        };
        let label = format!("{code:?}");
        if is_our_fault(code) {
            counter!("dwcp_errors_total").increment(1);
            counter!("dwcp_component_errors_total", "component" => component.clone(), "reason" => label.clone())
                .increment(1);
        }
        counter!("dwcp_component_requests_total", "component" => component, "method" => method, "code" => label)
            .increment(1);
    }
}

/// What the caller did wrong, or asked for in vain, is no error of the server.
fn is_our_fault(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss)
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

/// A body whose trailers are read on the way.
#[derive(Debug)]
pub(crate) struct Observed<B> {
    inner: B,
    waiting: Option<Call>,
}

impl<B: Default> Default for Observed<B> {
    fn default() -> Self {
        Self { inner: B::default(), waiting: None }
    }
}

impl<B: Body + Unpin> Body for Observed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Some(call) = this.waiting.take()
        {
            call.end(code_of(trailers).unwrap_or(Code::Unknown));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for Observed<B> {
    fn drop(&mut self) {
        // The caller went away before the end.
        if let Some(call) = self.waiting.take() {
            call.end(Code::Cancelled);
        }
    }
}
