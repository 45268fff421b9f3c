"""A mail server with STARTTLS and a login, which puts what it accepts into a folder.

server.py FOLDER PORT: prints the port when it listens. FOLDER holds cert.pem and key.pem. While FOLDER/hold exists, a mail is
read but not accepted, and FOLDER/holding says so. A recipient whose name begins with "nobody" is unknown, and one whose
name begins with "busy" is to be tried later.
"""

import asyncio
import logging
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

FOLDER = pathlib.Path(sys.argv[1])
PORT = int(sys.argv[2])


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return f"550 5.1.1 {address} is unknown"
        if address.startswith("busy"):
            return f"450 4.2.1 {address} is busy"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        while (FOLDER / "hold").exists():
            (FOLDER / "holding").touch()
            await asyncio.sleep(0.01)
        mails = FOLDER / "mails"
        mails.mkdir(exist_ok=True)
        number = len(list(mails.glob("*.eml")))
        draft = mails / f"{number:06}"
        draft.write_bytes(b"X-Rcpt: " + ",".join(envelope.rcpt_tos).encode() + b"\r\n" + envelope.content)
        draft.rename(draft.with_suffix(".eml"))
        return "250 2.0.0 accepted"


# Warnings of aiosmtpd about itself say nothing about the tests.
logging.getLogger("mail.log").setLevel(logging.ERROR)


def authenticate(server, session, envelope, mechanism, data):
    known = data.login == b"postman" and data.password == b"sesame"
    return AuthResult(success=known, handled=known)


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(FOLDER / "cert.pem", FOLDER / "key.pem")

    def session():
        return SMTP(
            Handler(),
            hostname="localhost",
            tls_context=context,
            require_starttls=True,
            authenticator=authenticate,
            auth_required=True,
        )

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", PORT)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
