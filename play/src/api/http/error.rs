//! [`HttpError`]: error codes as answers of HTTP.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use proscenium_framing::packet::ErrorCode;

/// An [`ErrorCode`] as the answer of a route: a status, and the body
/// `{"code":8,"error":"stage already exists (8)"}`. By `?` it is made of what an
/// [`ApiSender`](crate::api::ApiSender) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpError(pub ErrorCode);

impl HttpError {
    /// Its status: 404 for what is not found, 409 for what is there already or was refused by a
    /// stage, 400 and 401 for what the caller did wrong, 503 and 504 for servers that cannot be
    /// reached, have no room or do not answer, 422 for the application's codes, else 500.
    pub const fn status(self) -> StatusCode {
        match self.0 {
            ErrorCode::REQUEST_TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::SERVER_NOT_FOUND | ErrorCode::SYSTEM_ERROR => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ErrorCode::STAGE_NOT_FOUND | ErrorCode::ACTOR_NOT_FOUND => StatusCode::NOT_FOUND,
            ErrorCode::HANDLER_NOT_FOUND => StatusCode::NOT_FOUND,
            ErrorCode::AUTHENTICATION_FAILED
            | ErrorCode::NOT_AUTHENTICATED
            | ErrorCode::INVALID_ACCOUNT_ID => StatusCode::UNAUTHORIZED,
            ErrorCode::ALREADY_AUTHENTICATED
            | ErrorCode::STAGE_ALREADY_EXISTS
            | ErrorCode::STAGE_CREATION_FAILED
            | ErrorCode::JOIN_STAGE_FAILED
            | ErrorCode::JOIN_STAGE_REJECTED => StatusCode::CONFLICT,
            ErrorCode::INVALID_MESSAGE | ErrorCode::INVALID_STAGE_TYPE => StatusCode::BAD_REQUEST,
            ErrorCode(ErrorCode::APPLICATION..) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorCode> for HttpError {
    fn from(code: ErrorCode) -> Self {
        Self(code)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "code": self.0.0, "error": self.0.to_string() });
        (self.status(), Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_of_an_error() {
        for code in (1..=99).chain([1000, 60_000]) {
            let status = HttpError(ErrorCode(code)).status();
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{code}"
            );
        }
        assert_eq!(HttpError(ErrorCode(8)).status(), StatusCode::CONFLICT);
        assert_eq!(
            HttpError(ErrorCode(2)).status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            HttpError(ErrorCode(15)).status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
        assert_eq!(
            HttpError(ErrorCode(1500)).status(),
            StatusCode::UNPROCESSABLE_ENTITY
        );
    }
}
