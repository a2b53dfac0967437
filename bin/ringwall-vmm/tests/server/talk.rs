//! What honest clients do.

use std::time::Duration;

use ringwall_vmm_bin::api::Limits;

use crate::fake::{Fake, request};

#[test]
fn a_life_on_one_connection() {
    let fake = Fake::start();
    let mut client = fake.client();
    let info = client.ask("GET", "/", "");
    assert_eq!(info.status, 200);
    assert_eq!(
        info.body,
        r#"{"id":"anonymous-instance","state":"Not started","vmm_version":"0.1.0","app_name":"Ringwall"}"#
    );
    let wanted = format!(
        "HTTP/1.1 200 OK\r\nServer: Ringwall\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        info.body.len()
    );
    assert_eq!(info.head, wanted);
    let put = client.ask("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#);
    assert_eq!(
        put.head,
        "HTTP/1.1 204 No Content\r\nServer: Ringwall\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        client
            .ask("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#)
            .status,
        204
    );
    assert!(client.ask("GET", "/", "").body.contains("Running"));
    assert_eq!(client.ask("PATCH", "/vm", r#"{"state":"Paused"}"#).status, 204);
    let fault = client.ask("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
    assert_eq!(
        (fault.status, fault.body.as_str()),
        (
            400,
            r#"{"fault_message":"that can't be done after the machine was started"}"#
        )
    );
}

#[test]
fn deprecated_fields_are_said_in_the_head() {
    let fake = Fake::start();
    let old = fake.ask("PUT", "/vsock", r#"{"vsock_id":"v","guest_cid":3,"uds_path":"/v"}"#);
    assert_eq!(old.status, 204);
    assert!(old.head.contains("\r\nDeprecation: true\r\n"), "{}", old.head);
    assert!(
        !fake
            .ask("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"/v"}"#)
            .head
            .contains("Deprecation")
    );
}

#[test]
fn connections_end_when_the_client_says_so() {
    let fake = Fake::start();
    let mut client = fake.client();
    client.send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    let reply = client.reply().unwrap();
    assert!(reply.head.contains("\r\nConnection: close\r\n"), "{}", reply.head);
    assert!(client.is_closed());
}

#[test]
fn http_1_0_keeps_its_connection_as_with_firecracker() {
    let fake = Fake::start();
    let mut client = fake.client();
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().unwrap().status, 200);
    assert_eq!(client.ask("GET", "/version", "").status, 200);
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let fake = Fake::start();
    let mut client = fake.client();
    let mut bytes = String::new();
    for index in 0..300 {
        bytes.push_str(&request("PUT", "/mmds", &format!(r#"{{"index":{index}}}"#)));
        bytes.push_str(&request("GET", "/mmds", ""));
    }
    client.send(bytes.as_bytes());
    for index in 0..300 {
        assert_eq!(client.reply().unwrap().status, 204);
        assert_eq!(client.reply().unwrap().body, format!(r#"{{"index":{index}}}"#));
    }
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answers() {
    let fake = Fake::start();
    let mut client = fake.client();
    client.send(format!("{}{}", request("GET", "/version", ""), request("GET", "/", "")).as_bytes());
    client.finish_sending();
    assert!(client.reply().unwrap().body.contains("firecracker_version"));
    assert!(client.reply().unwrap().body.contains("app_name"));
    assert!(client.is_closed());
    let mut partial = fake.client();
    partial.send(b"GET / HTTP/1.1\r\n");
    partial.finish_sending();
    assert!(partial.is_closed());
}

#[test]
fn a_body_that_waits_for_leave_gets_it() {
    let fake = Fake::start();
    let mut client = fake.client();
    client.send(b"PUT /mmds HTTP/1.1\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.reply().unwrap().head, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(br#"{"a"#);
    client.send(br#"":1}"#);
    assert_eq!(client.reply().unwrap().status, 204);
    // With the body already there, there is nothing to wait for.
    client.send(b"PUT /mmds HTTP/1.1\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n{\"a\":2}");
    assert_eq!(client.reply().unwrap().status, 204);
    // A body that is too long gets no leave.
    client.send(b"PUT /mmds HTTP/1.1\r\nContent-Length: 51201\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.reply().unwrap().status, 413);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let fake = Fake::start();
    let mut client = fake.client();
    for byte in request("PUT", "/mmds", r#"{"a":1}"#).bytes() {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().unwrap().status, 204);
}

#[test]
fn the_longest_body_is_taken_and_the_longest_answer_arrives() {
    let fake = Fake::start();
    let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(51_200 - 8));
    assert_eq!(body.len(), 51_200);
    let mut client = fake.client();
    assert_eq!(client.ask("PUT", "/mmds", &body).status, 204);
    assert_eq!(client.ask("GET", "/mmds", "").body, body);
    let more = format!("{body} ");
    assert_eq!(client.ask("PUT", "/mmds", &more).status, 413);
    assert_eq!(fake.ask("GET", "/mmds", "").body, body);
}

#[test]
fn a_busy_machine_costs_nobody_their_time() {
    let limits = Limits {
        request_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let fake = Fake::with(limits, Duration::from_millis(900));
    assert_eq!(
        fake.ask("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#).status,
        204
    );
    assert_eq!(
        fake.ask("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#).status,
        204
    );
    let mut half = fake.client();
    half.send(b"GET / HTTP/1.1\r\n");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(fake.ask("PATCH", "/vm", r#"{"state":"Paused"}"#).status, 204);
    half.send(b"\r\n");
    assert!(half.reply().unwrap().body.contains("Paused"));
}
