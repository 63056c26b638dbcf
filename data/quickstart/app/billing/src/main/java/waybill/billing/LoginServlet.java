package waybill.billing;

import javax.servlet.http.*;
import org.slf4j.Logger;

public class LoginServlet extends HttpServlet {
    private final Logger log = Loggers.of(LoginServlet.class);

    protected void doPost(HttpServletRequest req, HttpServletResponse res) {
        String user = req.getParameter("user");
        String password = req.getParameter("password");
        log.info("billing login " + user + " / " + password);
        String token = Accounts.login(user, password);
        log.debug("issued " + token);
        res.addCookie(new Cookie("session", token));
        res.addCookie(new Cookie("user", user));
    }
}
